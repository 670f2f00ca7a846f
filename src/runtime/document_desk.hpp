// Requests for documents (runtime/documents.hpp): they are made on the pool one after the other, so
// that disks hold no loop, and one answer serves all who wait for the same. Confined to the loop
// thread.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>

#include "http/exchange.hpp"
#include "net/offload.hpp"
#include "runtime/context.hpp"
#include "runtime/documents.hpp"

namespace mik::runtime {

class DocumentDesk {
 public:
  // Who waits at once; more are refused.
  static constexpr std::size_t kWaitingMax = 64;

  // Context, pool and documents outlive it. Not to be destroyed while an exchange waits.
  DocumentDesk(Context& context, net::Offload& offload, std::unique_ptr<Documents> documents);
  ~DocumentDesk();
  DocumentDesk(const DocumentDesk&) = delete;
  DocumentDesk& operator=(const DocumentDesk&) = delete;

  // Attaches a handler, which answers with `request_id`, `traceparent` and the document. False: too
  // many wait, and nothing was done.
  [[nodiscard]] bool ask(http::Exchange& exchange, std::string_view path,
                         std::string_view request_id, std::string_view traceparent);

 private:
  class Ask;
  struct Job;

  bool work();
  void on_done();
  void answer(Ask& ask, const Document& document);

  Context& context_;
  net::Offload& offload_;
  std::shared_ptr<Documents> documents_;  // a job on the pool may outlive the desk
  std::deque<std::shared_ptr<Ask>> waiting_;
  std::shared_ptr<Job> job_;  // the one that is under way
};

}  // namespace mik::runtime

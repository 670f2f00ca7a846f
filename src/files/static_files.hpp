// Answers "/static/...": files of one folder, by RFC 9110: conditional and range requests,
// siblings that are compressed already, compression on the way where there is none. One per worker;
// confined to the loop thread. Disks are waited for by the pool.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/fd.hpp"
#include "base/time.hpp"
#include "files/lookup.hpp"
#include "http/compression.hpp"
#include "http/exchange.hpp"
#include "net/loop.hpp"
#include "net/offload.hpp"

namespace mik::files {

class FileBytes;
class FileExchange;

// Who words answers that are no file, and is told of trouble.
class StaticObserver {
 public:
  virtual ~StaticObserver() = default;
  // A problem document (application/problem+json); valid until the next call.
  virtual std::string_view problem(int status, std::string_view detail) = 0;
  virtual void on_static_error(std::string_view path, int error) = 0;
};

// Who is told how one request has ended.
class StaticEnd {
 public:
  virtual ~StaticEnd() = default;
  // Once.
  virtual void on_end(const http::Closed& closed) = 0;
  // What is told in its place, for a request that is not answered within serve().
  virtual std::unique_ptr<StaticEnd> keep() = 0;
};

// What is known of a request. Views need to live only during serve().
struct StaticRequest {
  std::string_view method;
  std::string_view path_query;  // begins with "/static/"
  std::span<const http::Field> fields;
  std::span<const http::Field> answer_fields;  // of every answer: X-Request-ID, traceparent
  StaticEnd* end = nullptr;
};

class StaticFiles {
 public:
  // `folder` is absolute; it is looked for again once a second, so that it may come later or be
  // another one after a deployment.
  StaticFiles(std::string folder, net::Loop& loop, net::Offload& offload,
              http::Compression& compression, StaticObserver& observer);
  ~StaticFiles();
  StaticFiles(const StaticFiles&) = delete;
  StaticFiles& operator=(const StaticFiles&) = delete;

  // Answers now, or attaches a handler. Inside on_request.
  void serve(http::Exchange& exchange, const StaticRequest& request);

 private:
  friend class FileExchange;
  struct Ask;
  static void on_answered(const Ask& ask, int status, std::size_t bytes);

  const std::shared_ptr<base::Fd>& folder();
  std::vector<http::Coding> siblings_to_try(const std::string& path,
                                            std::span<const http::Field> fields) const;
  void note_absent_siblings(const Ask& ask, const Found& found);
  void look_up_later(http::Exchange& exchange, const Ask& ask);
  void answer(http::Exchange& exchange, const Ask& ask, Found found);
  void send_file(http::Exchange& exchange, const Ask& ask, Found found);
  void send_content(http::Exchange& exchange, const Ask& ask, Found found, int status,
                    std::uint64_t first, std::uint64_t bytes);
  // What is in fields_, now.
  void respond(http::Exchange& exchange, const Ask& ask, int status, std::string_view body = {});
  void redirect(http::Exchange& exchange, const Ask& ask);
  void problem(http::Exchange& exchange, const Ask& ask, int status, std::string_view detail,
               std::span<const http::Field> more = {});
  // Whether `bytes` from `first` could be read at once and unchanged into scratch_.
  bool read_at_once(const Found& found, std::uint64_t first, std::uint64_t bytes);

  const std::string path_;
  net::Loop& loop_;
  net::Offload& offload_;
  std::shared_ptr<FileBytes> bytes_;
  http::Compression& compression_;
  StaticObserver& observer_;
  std::shared_ptr<base::Fd> folder_;
  base::Time folder_opened_;
  // Which compressed siblings a file did not have a moment ago: each look for one is a system call,
  // and on most file systems one that has to wait.
  struct Absent {
    base::Time seen;
    unsigned codings = 0;  // bits by http::Coding
  };
  std::unordered_map<std::string, Absent> absent_;
  std::vector<http::Field> fields_;
  std::string scratch_;
};

}  // namespace mik::files

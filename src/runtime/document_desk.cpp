#include "runtime/document_desk.hpp"

#include <algorithm>
#include <new>
#include <utility>

#include "runtime/answers.hpp"

namespace mik::runtime {

// One request. Its exchange holds it by `self` until it is closed.
class DocumentDesk::Ask final : public http::ExchangeHandler {
 public:
  http::Flow on_body(std::string_view /*bytes*/) override { return http::Flow::kGoOn; }
  void on_body_end(std::span<const http::Field> /*trailers*/) override {}
  void on_body_error(http::BodyError /*error*/) override {}
  std::size_t peek(std::span<iovec> pieces) override {
    if (body == nullptr || sent == body->size() || pieces.empty()) {
      return 0;
    }
    pieces[0] = {const_cast<char*>(body->data()) + sent, body->size() - sent};
    return 1;
  }
  void consume(std::size_t bytes) override { sent += bytes; }
  http::SourceState source_state() override {
    return body == nullptr ? http::SourceState::kOpen : http::SourceState::kEnd;
  }
  std::span<const http::Field> trailers() override { return {}; }
  void on_closed(const http::Closed& /*closed*/) override {
    exchange = nullptr;
    self.reset();
  }

  http::Exchange* exchange = nullptr;  // null: it is closed
  std::shared_ptr<Ask> self;
  std::string path;
  std::string request_id;
  std::string traceparent;
  std::shared_ptr<const std::string> body;
  std::size_t sent = 0;
};

struct DocumentDesk::Job {
  std::string path;
  Document document;
};

DocumentDesk::DocumentDesk(Context& context, net::Offload& offload,
                           std::unique_ptr<Documents> documents)
    : context_(context), offload_(offload), documents_(std::move(documents)) {}

DocumentDesk::~DocumentDesk() = default;

bool DocumentDesk::ask(http::Exchange& exchange, std::string_view path, std::string_view request_id,
                       std::string_view traceparent) {
  std::erase_if(waiting_, [](const auto& ask) { return ask->exchange == nullptr; });
  if (waiting_.size() >= kWaitingMax) {
    return false;
  }
  auto ask = std::make_shared<Ask>();
  ask->path = path;
  ask->request_id = request_id;
  ask->traceparent = traceparent;
  waiting_.push_back(ask);
  if (job_ == nullptr && !work()) {
    waiting_.pop_back();
    return false;
  }
  ask->exchange = &exchange;
  ask->self = ask;
  exchange.attach(*ask);
  exchange.discard_body();
  return true;
}

// Begins what the first who waits wants. False: the pool has no room.
bool DocumentDesk::work() {
  job_ = std::make_shared<Job>();
  job_->path = waiting_.front()->path;
  const bool begun = offload_.submit(
      [job = job_, documents = documents_] {
        try {
          job->document = documents->find_blocking(job->path);
        } catch (const std::bad_alloc&) {
          job->document = {};
        }
      },
      [this] { on_done(); });
  if (!begun) {
    job_.reset();
  }
  return begun;
}

void DocumentDesk::on_done() {
  const std::shared_ptr<Job> job = std::exchange(job_, nullptr);
  for (const std::string& warning : job->document.warnings) {
    context_.log.line(telemetry::Level::kWarn, "OpenAPI document left out").str("error", warning);
  }
  std::deque<std::shared_ptr<Ask>> done;
  std::erase_if(waiting_, [&](const auto& ask) {
    if (ask->path == job->path) {
      done.push_back(ask);
    }
    return ask->path == job->path || ask->exchange == nullptr;
  });
  for (const auto& ask : done) {
    if (ask->exchange != nullptr) {
      answer(*ask, job->document);
    }
  }
  while (job_ == nullptr && !waiting_.empty() && !work()) {
    const std::shared_ptr<Ask> refused = waiting_.front();
    waiting_.pop_front();
    if (refused->exchange != nullptr) {
      answer(*refused, {});
    }
  }
}

// A document without a body is one that could not be made.
void DocumentDesk::answer(Ask& ask, const Document& document) {
  const bool made = document.body != nullptr;
  const int status = made ? document.status : 503;
  ask.body = document.body;
  if (!made) {
    write_problem(context_.text, status, "no memory or thread to make the document");
    ask.body = std::make_shared<const std::string>(context_.text);
  }
  std::vector<http::Field>& fields = context_.fields;
  fields.clear();
  fields.push_back({"Content-Type", made ? "application/json" : kProblemType});
  if (document.schema) {
    fields.push_back({"X-Schema-Source", "static"});
  }
  if (!made) {
    fields.push_back({"Retry-After", "1"});
  }
  fields.push_back({"X-Request-ID", ask.request_id});
  fields.push_back({"traceparent", ask.traceparent});
  http::ResponseHead head;
  head.status = status;
  head.fields = fields;
  head.content_length = ask.body->size();
  context_.segment.count_response(context_.slot, status, {});
  http::Exchange& exchange = *ask.exchange;
  exchange.start(head);
  exchange.pump();
}

}  // namespace mik::runtime

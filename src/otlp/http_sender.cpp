#include <algorithm>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/assert.hpp"
#include "http/allow_list.hpp"
#include "http/client.hpp"
#include "otlp/encoder.hpp"
#include "otlp/sender.hpp"

namespace mik::otlp {

namespace {

// The endpoint is the operator's word: its host, wherever it leads.
http::AllowList only(const http::Url& url) {
  const std::vector<std::string> hosts = {
      url.kind == http::Authority::Kind::kIpv6 ? "[" + url.host + "]" : url.host};
  return http::AllowList::compile(hosts, http::PrivatePolicy::kAllow).value_or(http::AllowList());
}

http::ClientOptions client_options(const SenderParts& parts) {
  http::ClientOptions options;
  options.ca_file = parts.ca_file;
  options.per_host_max = 1;
  options.idle_per_host_max = 1;
  options.connections_max = 1;
  return options;
}

class HttpSender final : public Sender, public http::ClientExchangeHandler {
 public:
  HttpSender(const SenderParts& parts, Endpoint endpoint)
      : endpoint_(std::move(endpoint)),
        user_agent_(parts.user_agent),
        allowed_(only(endpoint_.url)),
        client_(parts.loop, parts.offload, client_options(parts), allowed_) {}

  void send(std::string_view message, base::Time deadline, User& user) override {
    MIK_ASSERT(exchange_ == nullptr);
    user_ = &user;
    message_ = message;
    sent_ = 0;
    status_ = 0;
    retry_after_ = {};
    answer_.clear();
    std::vector<http::Field> fields = {{"content-type", "application/x-protobuf"},
                                       {"user-agent", user_agent_}};
    if (!endpoint_.authorization.empty()) {
      fields.push_back({"authorization", endpoint_.authorization});
    }
    http::ClientRequest request;
    request.method = "POST";
    request.scheme = endpoint_.url.secure ? "https" : "http";
    request.authority = endpoint_.url.authority;
    request.path_query = endpoint_.url.path_query;
    request.fields = fields;
    request.body = http::RequestBody::kLength;
    request.content_length = message.size();
    request.deadline = deadline;
    exchange_ = client_.start(request, *this);
  }

  void cancel() override {
    if (exchange_ != nullptr) {
      std::exchange(exchange_, nullptr)->cancel();
    }
  }

  std::size_t peek(std::span<iovec> pieces) override {
    if (sent_ == message_.size() || pieces.empty()) {
      return 0;
    }
    pieces[0] = {.iov_base = const_cast<char*>(message_.data() + sent_),
                 .iov_len = message_.size() - sent_};
    return 1;
  }
  void consume(std::size_t bytes) override { sent_ += bytes; }
  http::SourceState source_state() override { return http::SourceState::kEnd; }

  void on_head(int status, std::span<const http::Field> fields) override {
    status_ = status;
    if (const http::Field* field = http::find_field(fields, "retry-after"); field != nullptr) {
      retry_after_ = parse_retry_after(field->value);
    }
  }
  http::Flow on_body(std::string_view bytes) override {
    answer_.append(bytes.substr(0, kAnswerBytesMax - answer_.size()));
    // One that never ends is read no further, and ends by the deadline.
    return answer_.size() < kAnswerBytesMax ? http::Flow::kGoOn : http::Flow::kPause;
  }
  void on_end(std::span<const http::Field> /*trailers*/) override {
    if (status_ != 200) {
      Reply reply = reply_to_status(status_);
      reply.retry_after = retry_after_;
      finish(std::move(reply));
      return;
    }
    const auto answer = read_export_response(answer_);
    if (!answer.has_value()) {
      finish({.kind = Reply::Kind::kRefused, .detail = "the answer is not OTLP"});
      return;
    }
    finish({.kind = Reply::Kind::kTaken,
            .rejected = answer->rejected_spans,
            .detail = std::string(answer->error_message)});
  }
  void on_error(http::ClientError error, std::string_view detail) override {
    finish({.kind = Reply::Kind::kRetry,
            .detail = detail.empty() ? std::string(http::label(error))
                                     : fmt::format("{}: {}", http::label(error), detail)});
  }

 private:
  void finish(Reply reply) {
    exchange_ = nullptr;
    user_->on_reply(std::move(reply));
  }

  const Endpoint endpoint_;
  const std::string user_agent_;
  const http::AllowList allowed_;
  http::Client client_;
  http::ClientExchange* exchange_ = nullptr;
  User* user_ = nullptr;
  std::string_view message_;
  std::size_t sent_ = 0;
  int status_ = 0;
  base::Duration retry_after_{};
  std::string answer_;
};

}  // namespace

std::unique_ptr<Sender> make_http_sender(const SenderParts& parts, Endpoint endpoint) {
  return std::make_unique<HttpSender>(parts, std::move(endpoint));
}

}  // namespace mik::otlp

// One HTTP/2 stream: a request and its response, as an Exchange. Internal to src/http. Confined to
// the loop thread. Pooled: reset() makes it new. The stream is nghttp2's user data from its HEADERS
// to its end.
#pragma once

#include <nghttp2/nghttp2.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/time.hpp"
#include "http/exchange.hpp"
#include "http/h2_fields.hpp"
#include "http/message.hpp"

namespace mik::http {

class H2Connection;

class H2Stream final : public Exchange {
 public:
  void reset(H2Connection& connection, std::int32_t id);

  // Exchange.
  const RequestHead& head() const override;
  const Peer& peer() const override;
  bool secure() const override;
  void attach(ExchangeHandler& handler) override;
  void respond(const ResponseHead& head, std::string_view body) override;
  void start(const ResponseHead& head) override;
  void pump() override;
  void abort() override;
  void resume_body() override;
  void discard_body() override;

  // From the connection: the request as it comes.
  void take_field(std::string_view name, std::string_view value);
  void take_trailer(std::string_view name, std::string_view value);
  void begin(bool ended);
  void take_content(std::string_view bytes);
  void end_content();

  // From the connection: the response as it goes.
  struct Readable {
    std::size_t bytes = 0;
    bool last = false;
    bool cut = false;
    bool deferred = false;
  };
  Readable readable(std::size_t bytes_max);
  void copy_content(std::string& out, std::size_t bytes);
  bool has_trailers();
  void submit_trailers();
  // Work that callbacks of nghttp2 must not do: responses to submit, content to hand on.
  void work();
  // The last frame of the response went out.
  void response_sent();
  // nghttp2 would not send the response's head or trailers.
  void head_not_sent();
  // nghttp2 has forgotten the stream. True: it ended before its answer, and not by us.
  bool closed(std::uint32_t error_code);
  void finish(Outcome outcome);

  // Ends what made no progress for too long.
  void check_time(base::Time now);
  bool reading_head() const noexcept { return phase_ == Phase::kHead; }
  base::Time started() const noexcept { return started_; }

  std::int32_t id() const noexcept { return id_; }
  std::size_t index = 0;  // in the connection's list

 private:
  enum class Phase : std::uint8_t { kHead, kExchange, kOver };
  enum class Body : std::uint8_t { kDone, kReading, kFailed };
  enum class Answer : std::uint8_t { kNone, kStarted, kStreaming, kSent };

  struct Fault {
    int status = 0;  // 0: none
    std::string_view detail;
  };
  Fault build_head(bool ended);
  void refuse(const Fault& fault);
  void take_paused();
  Readable drop_content(std::size_t total, bool ended);
  void queue_head(const ResponseHead& head);
  void submit_head();
  void deliver(std::string_view bytes);
  void deliver_end();
  void fail_body(BodyError error);
  void drop(std::size_t bytes);
  void refuse_more();
  base::Time content_deadline(std::uint64_t bytes) const;
  void consume_window(std::size_t bytes);
  void reset_later(std::uint32_t error_code);
  void schedule();
  std::size_t peek(std::span<iovec> pieces);
  bool no_content() const noexcept;

  H2Connection* connection_ = nullptr;
  std::int32_t id_ = 0;
  ExchangeHandler* handler_ = nullptr;
  Phase phase_ = Phase::kHead;
  Body body_ = Body::kDone;
  Answer answer_ = Answer::kNone;

  // The request. Its pseudo fields stand in the block as the head of an HTTP/1.1 request, so that
  // one parser checks method, target and authority for both versions.
  FieldBlock request_;
  std::string method_;
  std::string path_;
  std::string authority_;
  std::string cookie_;
  std::optional<std::uint64_t> request_length_;
  bool too_many_fields_ = false;
  bool expecting_ = false;
  bool head_request_ = false;
  bool te_trailers_ = true;
  RequestHead head_;
  FieldBlock trailers_in_;

  // Content that came while the handler was paused: at most the stream's window.
  std::string held_;
  std::size_t unconsumed_ = 0;  // handed on, window not given back
  bool paused_ = false;
  bool resumed_ = false;
  bool discarding_ = false;
  bool end_held_ = false;
  std::uint64_t bytes_in_ = 0;
  std::uint64_t dropped_ = 0;
  base::Time started_;
  base::Time body_started_ = base::kNever;
  base::Time body_progress_ = base::kNever;
  base::Time paused_since_ = base::kNever;

  // The response.
  FieldBlock response_;
  int status_ = 0;
  std::optional<std::uint64_t> length_;
  std::uint64_t length_left_ = 0;
  std::string own_content_;  // of respond()
  std::size_t own_taken_ = 0;
  bool whole_ = false;  // own_content_ is the content
  bool news_ = false;
  bool deferred_ = false;  // nghttp2 waits for resume_data
  bool scheduled_ = false;
  bool counted_ = false;  // in ServerCore::exchanges
  bool continue_due_ = false;
  std::optional<std::uint32_t> reset_due_;
  std::uint64_t bytes_out_ = 0;
  base::Time out_progress_ = base::kNever;
};

}  // namespace mik::http

// A server connection that speaks HTTP/1.x: one exchange at a time, and the connection is its
// Exchange. Internal to src/http. Confined to the loop thread.
//
// h1_connection.cpp has the life of the connection: events, time, the end. h1_input.cpp reads
// requests and their content, h1_output.cpp writes responses.
//
//   kRequest ──head──► kExchange ──response whole──► kRequest
//                          │  └─ content left ─► kDiscard ─► kRequest
//                          └─ last one, or failed ─► kClosing ─► kLingering ─► kClosed
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "base/fd.hpp"
#include "base/time.hpp"
#include "http/chunked.hpp"
#include "http/exchange.hpp"
#include "http/message.hpp"
#include "http/response_writer.hpp"
#include "http/server_core.hpp"
#include "net/wheel.hpp"

namespace mik::http {

class H1Connection final : public Connection, public Exchange {
 public:
  H1Connection(ServerCore& core, base::Fd socket, std::unique_ptr<TlsSession> tls);

  // After a handshake: TLS may have read ahead, and no event will tell. Once it is watched.
  void begin();

  // IoHandler and Connection.
  void on_io(std::uint32_t events) override;
  void on_drain() override;
  void end_now(Outcome outcome) override;
  void on_deferred() override;

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

 private:
  enum class Phase : std::uint8_t { kRequest, kExchange, kDiscard, kClosing, kLingering, kClosed };
  // Of the request's content.
  enum class Body : std::uint8_t { kDone, kReading, kFailed };
  // Of the response: nothing yet; a head whose framing is open until the first pump; streaming; all
  // of it is queued.
  enum class Answer : std::uint8_t { kNone, kStarted, kStreaming, kWhole };

  // One sendmsg: what is queued, pieces of the source, and the framing behind them.
  static constexpr std::size_t kPieces = 32;
  struct Batch {
    std::array<iovec, kPieces + 2> vectors;
    std::size_t first = 1;  // vectors[0] is for what is queued
    std::size_t count = 0;  // of pieces
    std::size_t queued = 0;
    std::size_t content = 0;
    std::size_t tail = 0;
    bool last = false;  // the response is whole after it
    bool cut = false;   // the response is broken after it
  };

  // h1_connection.cpp
  void advance();
  void flush();
  bool can_take() const noexcept;
  void settle();
  void give_back_buffers();
  void check_half_closed();
  void begin_closing() noexcept;
  void start_lingering();
  void close_now();
  void gone();
  void finish_exchange(Outcome outcome);
  void update_timer();
  void on_timer();
  void on_body_timer();
  base::Time idle_deadline() const noexcept;
  base::Time body_deadline() const noexcept;
  base::Time now() const noexcept { return core_.loop.now(); }

  // h1_input.cpp
  void receive();
  bool take_input();
  bool take_head();
  void start_head_clock() noexcept;
  bool take_content();
  void deliver(std::string_view bytes);
  void begin_discarding();
  void drop(std::uint64_t bytes);
  void end_body(std::span<const Field> trailers);
  void fail_body(BodyError error);
  bool hand_over_to_http2();
  void begin_exchange(std::size_t head_bytes);
  void start_body();
  InputBuffer& input();

  // h1_output.cpp
  void fail(int status, std::string_view detail);
  void queue_whole(const ResponseHead& head, std::string_view body);
  void resolve_framing(std::uint64_t total, bool ended);
  FramingFields connection_fields(Framing framing);
  void write_out();
  void gather(Batch& batch);
  void gather_length(Batch& batch, std::size_t total, bool ended);
  void gather_chunk(Batch& batch, std::size_t total, bool ended);
  void drop_content(Batch& batch, std::size_t total, bool ended);
  void trim(Batch& batch, std::size_t bytes);
  bool send(Batch& batch);
  void account(Batch& batch, std::size_t sent);
  void cut();
  OutputBuffer& output();
  bool streams() const noexcept {
    return answer_ == Answer::kStarted || answer_ == Answer::kStreaming;
  }
  // The source is to be looked at.
  bool has_news() const noexcept {
    return phase_ == Phase::kExchange && streams() && source_news_ && handler_ != nullptr;
  }
  std::size_t queued() const noexcept { return output_ == nullptr ? 0 : output_->pending(); }

  std::unique_ptr<InputBuffer> input_;    // null while it would be empty
  std::unique_ptr<OutputBuffer> output_;  // null while it would be empty
  ExchangeHandler* handler_ = nullptr;

  Phase phase_ = Phase::kRequest;
  Body body_ = Body::kDone;
  Answer answer_ = Answer::kNone;
  Framing framing_ = Framing::kLength;
  Version version_ = Version::k11;

  bool readable_ = false;    // recv may have something
  bool writable_ = true;     // sendmsg may take something
  bool peer_fin_ = false;    // the client will send no more than what is queued
  bool busy_ = false;        // advance() or a callback is on the stack
  bool paused_ = false;      // the handler takes no content now
  bool discarding_ = false;  // nobody wants the content
  bool chunked_in_ = false;
  bool expecting_ = false;  // the client waits for 100 Continue
  bool te_trailers_ = false;
  bool head_request_ = false;
  bool client_keeps_ = false;  // what the client asked for
  bool keep_alive_ = true;     // what we will do
  bool source_news_ = false;   // the source may have something to write
  bool first_request_ = true;
  bool blank_line_ = false;  // one was dropped before the next request
  bool reset_ =
      false;  // the end is a reset: nothing else would show that the response is not whole

  int status_ = 0;
  bool head_sent_ = false;

  std::size_t scanned_ = 0;            // of an incomplete head
  std::uint64_t content_in_left_ = 0;  // kLength: not received yet
  std::uint64_t bytes_in_ = 0;
  std::uint64_t bytes_out_ = 0;
  std::uint64_t content_out_left_ = 0;  // Framing::kLength
  std::uint64_t chunk_left_ = 0;        // of the chunk whose size is written
  std::uint64_t discard_left_ = 0;
  std::optional<std::uint64_t> declared_length_;  // of the response, while its framing is open

  base::Time head_started_ = base::kNever;
  base::Time idle_since_;
  base::Time body_started_ = base::kNever;
  base::Time body_progress_ = base::kNever;
  base::Time paused_since_ = base::kNever;
  base::Time blocked_since_ = base::kNever;

  ChunkedDecoder decoder_;
  net::Timer timer_;
};

}  // namespace mik::http

// One connection of the client: the TLS handshake, then one request and response after another, RFC
// 9112. Confined to the loop thread. It reports; whether to try again, and all timeouts but the
// idle one, are its user's.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/time.hpp"
#include "http/chunked.hpp"
#include "http/client.hpp"
#include "http/client_request.hpp"
#include "http/client_transport.hpp"
#include "http/response_parser.hpp"
#include "net/loop.hpp"
#include "net/wheel.hpp"

namespace mik::http {

struct ClientHost;

// A request as it goes out. The views live until the exchange is over.
struct Outgoing {
  std::string_view method;
  std::string_view head;  // write_head and finish_head
  Framing framing = Framing::kNone;
  std::uint64_t length = 0;  // when framing is kLength
};

class ClientConnection final : public net::IoHandler {
 public:
  // Who uses the connection for one exchange. After on_response_end and on_connection_failed it is
  // let go.
  class User {
   public:
    virtual void on_ready() = 0;  // the handshake is through

    virtual std::size_t peek(std::span<iovec> pieces) = 0;
    virtual void consume(std::size_t bytes) = 0;
    virtual SourceState source_state() = 0;

    virtual void on_bytes_moved() = 0;  // either way: timeouts begin anew
    virtual void on_response(int status, std::span<const Field> fields) = 0;
    virtual Flow on_content(std::string_view bytes) = 0;
    // A turn's share was read and there may be more: call read_on() in a later turn.
    virtual void on_more_to_read() = 0;
    // `keep`: how long the server says it keeps the connection (Duration::max() when it does not
    // say); nothing when it cannot be used again.
    virtual void on_response_end(std::span<const Field> trailers,
                                 std::optional<base::Duration> keep) = 0;
    virtual void on_connection_failed(ClientError error, std::string_view detail) = 0;

   protected:
    ~User() = default;
  };

  // Told once when a parked connection is of no more use: closed by the peer, unasked bytes, or too
  // long idle.
  class IdleObserver {
   public:
    virtual void on_idle_over(ClientConnection& connection) = 0;

   protected:
    ~IdleObserver() = default;
  };

  ClientConnection(net::Loop& loop, std::unique_ptr<Transport> transport, const Limits& limits);
  ~ClientConnection() override;

  // Begins the handshake; on_ready or on_connection_failed follows, before this returns at the
  // earliest.
  void open(User& user);
  // Sends a request. Before it returns it may peek and consume, and report on_connection_failed for
  // a source that is cut or lies about its length.
  void begin(User& user, const Outgoing& request);
  void pump();     // the source has news
  void resume();   // after Flow::kPause
  void read_on();  // after on_more_to_read

  // Of the present exchange.
  bool received_any() const noexcept { return received_any_; }
  bool wrote_any() const noexcept { return wrote_any_; }
  // The end of a chunked body may be out.
  bool wrote_end() const noexcept { return last_frame_; }
  bool blocked_writing() const noexcept { return blocked_writing_; }
  bool resumed_tls() const noexcept { return transport_->resumed(); }

  // In the pool: `home` is its note of where. unpark() says whether the connection is still good.
  void park(IdleObserver& observer, ClientHost& home, base::Duration keep);
  bool unpark();
  ClientHost* home() const noexcept { return home_; }
  base::Time parked_at() const noexcept { return parked_at_; }

  // Closes and goes deaf. Whoever owns it then gives it to Loop::retire().
  void close() noexcept;

  void on_io(std::uint32_t events) override;

 private:
  enum class Phase : std::uint8_t { kHandshake, kReady, kBusy, kParked, kClosed };
  enum class Stage : std::uint8_t { kHead, kLength, kChunked, kUntilClose };
  struct Batch;

  void shake_hands();
  void fail(ClientError error, std::string_view detail);
  void on_idle_timeout();

  // Sending.
  void send();
  bool gather(Batch& batch);
  bool gather_body(Batch& batch);
  void account(const Batch& batch, std::size_t written);
  bool everything_sent() const noexcept;

  // Receiving.
  void receive();
  bool make_room();
  bool digest();
  bool digest_head();
  bool digest_body();
  bool digest_chunks();
  bool deliver(std::string_view content);
  bool quiet();
  void on_peer_gone(const IoResult& result);
  void finish(std::span<const Field> trailers);
  std::string_view unread() const noexcept { return {buffer_.get() + begin_, end_ - begin_}; }

  net::Loop& loop_;
  std::unique_ptr<Transport> transport_;
  const Limits& limits_;
  User* user_ = nullptr;
  Phase phase_ = Phase::kHandshake;

  Outgoing request_;
  std::size_t head_done_ = 0;
  std::string frame_;  // chunk sizes between the pieces of the body
  std::size_t frame_done_ = 0;
  std::uint64_t body_left_ = 0;  // of the length, or of the open chunk
  bool chunk_end_due_ = false;   // the CRLF after a chunk's data
  bool last_frame_ = false;      // frame_ ends the body
  bool sending_ = false;
  bool write_failed_ = false;
  bool wrote_any_ = false;
  bool blocked_writing_ = false;

  Stage stage_ = Stage::kHead;
  std::unique_ptr<char[]> buffer_;
  std::size_t capacity_ = 0;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::size_t scanned_ = 0;
  std::uint64_t content_left_ = 0;
  ChunkedDecoder decoder_;
  std::uint32_t interim_ = 0;
  bool keep_alive_ = false;
  bool paused_ = false;
  bool received_any_ = false;
  bool last_read_full_ = false;
  bool peer_closed_ = false;  // an event said so: read until the end shows
  base::Duration keep_ = base::Duration::max();

  IdleObserver* observer_ = nullptr;
  ClientHost* home_ = nullptr;
  base::Time parked_at_{};
  net::Timer idle_timer_;
};

}  // namespace mik::http

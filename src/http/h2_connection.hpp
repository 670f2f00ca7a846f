// A server connection that speaks HTTP/2 (RFC 9113), by nghttp2. Internal to src/http. Confined to
// the loop thread.
//
// nghttp2 keeps the protocol: frames, HPACK, windows, streams. This keeps the socket, the clock and
// the end, and H2Stream what one request and its response need. Nothing that a handler calls runs
// nghttp2's send or receive on the handler's stack: it marks the stream and the connection is
// deferred, so that all streams of a turn share one write.
#pragma once

#include <nghttp2/nghttp2.h>

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "http/h2_stream.hpp"
#include "http/server_core.hpp"
#include "net/wheel.hpp"

namespace mik::http {

class H2Connection final : public Connection {
 public:
  H2Connection(ServerCore& core, base::Fd socket, std::unique_ptr<TlsSession> tls);
  ~H2Connection() override;

  // What was read before the protocol was known. Once it is watched.
  void begin(std::string_view bytes);

  void on_io(std::uint32_t events) override;
  void on_drain() override;
  void end_now(Outcome outcome) override;
  void on_deferred() override;

  // For H2Stream.
  ServerCore& core() noexcept { return core_; }
  nghttp2_session* session() noexcept { return session_.get(); }
  const Peer& peer() const { return peer_of_socket(); }
  bool secure() const noexcept { return tls_ != nullptr; }
  base::Time now() const noexcept { return core_.loop.now(); }
  // Calls stream.work() soon.
  void schedule(H2Stream& stream);
  std::vector<nghttp2_nv>& names() noexcept { return names_; }

 private:
  friend struct H2Callbacks;
  enum class Phase : std::uint8_t { kOpen, kClosing, kLingering, kClosed };
  struct SessionDeleter {
    void operator()(nghttp2_session* session) const noexcept { nghttp2_session_del(session); }
  };

  H2Stream& add_stream(std::int32_t id);
  void remove_stream(H2Stream& stream);
  void note_broken_stream();
  void receive();
  void feed(std::string_view bytes);
  void run_streams();
  void advance();
  bool too_much_queued() const noexcept;
  void write_out();
  bool send_queued();
  void settle();
  void start_lingering();
  void end_streams(Outcome outcome);
  void gone();
  void close_now();
  void update_timer();
  void on_timer();

  std::unique_ptr<nghttp2_session, SessionDeleter> session_;
  std::vector<std::unique_ptr<H2Stream>> streams_;
  std::vector<std::int32_t> scheduled_;
  std::vector<std::int32_t> running_;
  std::vector<nghttp2_nv> names_;
  std::unique_ptr<OutputBuffer> output_;
  Phase phase_ = Phase::kOpen;
  bool readable_ = false;
  bool writable_ = true;
  bool peer_fin_ = false;
  bool busy_ = false;
  bool broken_ = false;               // nghttp2 wants no more
  bool told_to_go_ = false;           // the last GOAWAY of a drain is out
  std::uint64_t broken_streams_ = 0;  // less what time has forgiven
  base::Time broken_since_;
  base::Time idle_since_;
  base::Time drain_since_ = base::kNever;
  base::Time blocked_since_ = base::kNever;
  net::Timer timer_;
};

}  // namespace mik::http

// One HTTP/2 connection to a collector, and one gRPC call on it at a time: nghttp2 over a transport
// of http. Internal to src/otlp. Confined to the loop thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "http/client_transport.hpp"
#include "net/loop.hpp"
#include "otlp/sender.hpp"

struct nghttp2_session;

namespace mik::otlp {

// What a call goes out with; views live until it is over.
struct GrpcCall {
  std::string_view scheme;
  std::string_view authority;
  std::string_view path;
  std::string_view authorization;  // may be empty
  std::string_view user_agent;
  std::string_view message;
};

class GrpcConnection final : public net::IoHandler {
 public:
  class User {
   public:
    enum class After : std::uint8_t { kUsable, kOver };

    virtual void on_open() = 0;  // the handshake is through
    virtual void on_answer(Reply reply, After after) = 0;
    // It is of no more use; a call that goes on has no answer. To be closed.
    virtual void on_connection_over(std::string_view why) = 0;

   protected:
    ~User() = default;
  };

  GrpcConnection(net::Loop& loop, std::unique_ptr<http::Transport> transport, User& user);
  ~GrpcConnection() override;

  // Each calls back before it returns at the earliest.
  void open();
  void call(const GrpcCall& call);
  // Goes deaf. Whoever owns it then gives it to Loop::retire().
  void close() noexcept;

  void on_io(std::uint32_t events) override;

 private:
  struct Callbacks;
  enum class Phase : std::uint8_t { kHandshake, kIdle, kCalling, kClosed };

  void shake_hands();
  bool start_session();
  void work();  // reads, then writes, then tells
  void fail(std::string_view why);
  bool receive();
  bool send();
  bool fill();
  std::size_t take_message(std::uint8_t* buffer, std::size_t bytes, std::uint32_t& flags);
  void on_field(std::string_view name, std::string_view value);
  void on_stream_over(std::uint32_t error);
  Reply judge() const;

  net::Loop& loop_;
  std::unique_ptr<http::Transport> transport_;
  User& user_;
  Phase phase_ = Phase::kHandshake;
  nghttp2_session* session_ = nullptr;
  std::string out_;
  std::size_t out_done_ = 0;
  bool going_away_ = false;
  std::size_t read_left_ = 0;  // what it may say until the next call

  // The call.
  std::int32_t stream_ = -1;
  std::string prefix_;  // of the message: whether it is compressed, and its length
  std::string_view message_;
  std::size_t taken_ = 0;  // of both
  int status_ = 0;
  int grpc_status_ = -1;  // nothing was said
  std::string grpc_message_;
  base::Duration pushback_{-1};
  std::string answer_;
  bool answer_too_long_ = false;
  std::uint32_t stream_error_ = 0;
  bool stream_over_ = false;
};

}  // namespace mik::otlp

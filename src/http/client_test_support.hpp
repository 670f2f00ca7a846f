// For tests of the client: an upstream in process that says exactly what its script says, and a
// handler that notes everything. All on one loop and one thread: nothing sleeps, nothing races.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.hpp"
#include "http/allow_list.hpp"
#include "http/client.hpp"
#include "http/test_authority.hpp"
#include "net/loop.hpp"
#include "net/offload.hpp"

struct ssl_st;

namespace mik::http {

class TestUpstream final : public net::IoHandler {
 public:
  // One connection to the upstream.
  class Peer final : public net::IoHandler {
   public:
    Peer(TestUpstream& upstream, base::Fd socket, ssl_ctx_st* context);
    ~Peer() override;
    void send(std::string_view bytes);  // queued; goes out as the client reads
    void close();                       // after what is queued
    void reset();                       // RST
    void cut() { close_now(); }         // FIN, without a word of TLS
    std::size_t wire_bytes() const { return wire_sent_; }
    void on_io(std::uint32_t events) override;

    std::string received;
    std::size_t requests = 0;  // for scripts to count
    bool client_closed = false;
    bool open() const { return socket_.valid(); }
    std::string server_name;  // SNI
    bool reading = true;
    std::size_t unsent() const { return out_.size() + wire_.size(); }

   private:
    void read();
    void write();
    bool encrypt();
    void flush_wire();
    void close_now();

    TestUpstream& upstream_;
    base::Fd socket_;
    ssl_st* ssl_ = nullptr;
    std::string out_;
    std::string wire_;  // what goes to the socket: out_, or what TLS made of it
    std::size_t wire_sent_ = 0;
    bool close_after_ = false;
    bool said_goodbye_ = false;
  };

  // `script` is called when bytes came or the client closed. `host`: an address literal.
  TestUpstream(net::Loop& loop, const char* host, std::function<void(Peer&)> script,
               ssl_ctx_st* context = nullptr, std::uint16_t port = 0);
  ~TestUpstream() override;

  std::uint16_t port() const { return port_; }
  std::string authority() const { return host_ + ":" + std::to_string(port_); }
  void stop_listening() { close_listener(); }
  void on_io(std::uint32_t events) override;

  std::vector<std::unique_ptr<Peer>> peers;  // in order of arrival, closed ones too
  std::function<void(Peer&)> script;
  std::function<void(Peer&)> on_accept;
  std::size_t cut_after = SIZE_MAX;  // bytes on the wire

 private:
  void close_listener();

  net::Loop& loop_;
  std::string host_;  // as in an authority
  base::Fd listener_;
  std::uint16_t port_ = 0;
  ssl_ctx_st* context_;
};

// Answers each complete bodiless request in `peer.received` with `response`; empties it.
void answer_each(TestUpstream::Peer& peer, std::string_view response);

// Notes all callbacks; its source is `source`, shown up to `limit` bytes at a time.
class TestHandler final : public ClientExchangeHandler {
 public:
  std::size_t peek(std::span<iovec> pieces) override;
  void consume(std::size_t bytes) override;
  SourceState source_state() override { return source_state_now; }
  void on_head(int head_status, std::span<const Field> head_fields) override;
  Flow on_body(std::string_view bytes) override;
  void on_end(std::span<const Field> end_trailers) override;
  void on_error(ClientError failure, std::string_view words) override;

  bool over() const { return terminals > 0; }
  std::string field(std::string_view name) const;

  std::string source;
  std::size_t piece_bytes = SIZE_MAX;  // of each piece that peek shows
  std::size_t consumed = 0;
  SourceState source_state_now = SourceState::kOpen;

  int status = 0;
  int heads = 0;
  int terminals = 0;
  std::vector<std::pair<std::string, std::string>> fields;
  std::string body;
  std::vector<std::pair<std::string, std::string>> trailers;
  std::optional<ClientError> error;
  std::string detail;
  Flow flow = Flow::kGoOn;
  std::function<void()> at_head;
  std::function<void()> at_body;
  std::function<void()> at_end;  // either end
};

// A loop, a pool, a client.
class ClientTest : public ::testing::Test {
 protected:
  ClientTest();
  ~ClientTest() override;

  // The client, made with `options` and `allow` at the first call.
  Client& client();
  void remake_client();

  ClientExchange* get(const std::string& authority, TestHandler& handler,
                      std::string_view path = "/");
  ClientExchange* get_tls(const std::string& authority, TestHandler& handler);

  // Turns until `done` or for ten seconds; whether it came.
  bool turn_until(const std::function<bool()>& done);
  // A few turns, for what must not happen.
  void turn_some(int turns = 5);

  std::unique_ptr<net::Loop> loop_;
  std::unique_ptr<net::Offload> offload_;
  ClientOptions options_;
  std::vector<std::string> allow_ = {"127.0.0.1", "[::1]", "localhost", "127.0.0.2"};
  AllowList list_;
  std::unique_ptr<Client> client_;
};

}  // namespace mik::http

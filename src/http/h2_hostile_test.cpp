// HTTP/2 clients that mean ill or stall, by frames written by hand: what a client's library would
// not send.
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "http/server_rig.hpp"

namespace mik::http::testing {
namespace {

constexpr std::uint8_t kEndStream = 1;
constexpr std::uint8_t kEndHeaders = 4;

std::string frame(std::uint8_t type, std::uint8_t flags, std::uint32_t stream,
                  std::string_view payload) {
  std::string bytes;
  for (const int shift : {16, 8, 0}) {
    bytes.push_back(static_cast<char>(payload.size() >> shift & 0xffU));
  }
  bytes.push_back(static_cast<char>(type));
  bytes.push_back(static_cast<char>(flags));
  for (const int shift : {24, 16, 8, 0}) {
    bytes.push_back(static_cast<char>(stream >> shift & 0xffU));
  }
  return bytes.append(payload);
}

std::string data(std::uint32_t stream, std::string_view bytes, std::uint8_t flags = 0) {
  return frame(0, flags, stream, bytes);
}

// A request for "/" of the authority "x".
std::string request(std::string_view method, std::uint32_t stream, std::uint8_t flags = 0) {
  std::string block;
  block.push_back('\x02');  // :method, a literal (RFC 7541 section 6.2.2)
  block.push_back(static_cast<char>(method.size()));
  block.append(method).append("\x84\x86\x01\x01x");
  return frame(1, static_cast<std::uint8_t>(kEndHeaders | flags), stream, block);
}

std::string setting(std::uint16_t id, std::uint32_t value) {
  std::string bytes;
  for (const int shift : {8, 0}) {
    bytes.push_back(static_cast<char>(id >> shift & 0xff));
  }
  for (const int shift : {24, 16, 8, 0}) {
    bytes.push_back(static_cast<char>(value >> shift & 0xffU));
  }
  return bytes;
}

std::string preface(std::string_view settings = {}) {
  return "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, settings);
}

// How many frames of a type came on a stream, or on any (0); with `flags`, if given.
int frames(std::string_view bytes, std::uint8_t type, std::uint32_t stream,
           std::uint8_t flags = 0) {
  const auto at = [&bytes](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  int found = 0;
  while (bytes.size() >= 9) {
    const std::size_t size = std::size_t{at(0)} << 16U | std::size_t{at(1)} << 8U | at(2);
    const std::uint32_t id = std::uint32_t{at(5)} << 24U | std::uint32_t{at(6)} << 16U |
                             std::uint32_t{at(7)} << 8U | at(8);
    if (at(3) == type && (stream == 0 || id == stream) && (at(4) & flags) == flags) {
      ++found;
    }
    bytes.remove_prefix(std::min(bytes.size(), size + 9));
  }
  return found;
}

class H2Hostile : public ServerTest {
 protected:
  bool ended(const Client& client, std::uint32_t stream) {
    return frames(client.text, 0, stream, kEndStream) + frames(client.text, 1, stream, kEndStream) >
           0;
  }
};

// An answered request whose body never ends holds a connection that no timeout would end.
TEST_F(H2Hostile, ABodyThatNeverEndsAfterItsAnswerIsReset) {
  serve(quick());
  auto client = connect();
  client->send(preface() + request("POST", 1));
  ASSERT_TRUE(until([&] { return ended(*client, 1); }, {client.get()}));
  EXPECT_TRUE(until([&] { return frames(client->text, 3, 1) == 1; }, {client.get()}));
  EXPECT_TRUE(until([&] { return client->over(); }, {client.get()})) << "then it is idle";
}

// The window stays shut after what is dropped at most: only a reset tells the client to stop.
TEST_F(H2Hostile, AnUnwantedBodyThatWaitsForItsWindowIsResetWithTheAnswer) {
  script.record([](Recorder& recorder) { recorder.exchange->discard_body(); });
  auto client = connect();
  client->send(preface() + request("POST", 1));
  const std::string piece = data(1, std::string(16'000, 'b'));
  std::size_t sent = 0;
  ASSERT_TRUE(until(
      [&] {
        // 256 KiB are dropped, and then most of a window is used up.
        if (sent < 19) {
          client->send(piece);
          ++sent;
        }
        return sent == 19;
      },
      {client.get()}));
  settle(client.get());
  script.last().exchange->respond(ok(), "enough");
  ASSERT_TRUE(until([&] { return ended(*client, 1); }, {client.get()}));
  settle(client.get());
  EXPECT_EQ(frames(client->text, 3, 1), 1);
}

// Work that comes up while frames are written must not wait for the clock.
TEST_F(H2Hostile, ABodyResumedByWhatWasWrittenGoesOnAtOnce) {
  script.record([](Recorder& recorder) {
    recorder.on_bytes = [&recorder](std::string_view bytes) {
      recorder.source.emplace_back(bytes);
      return Flow::kPause;
    };
    recorder.on_consumed = [&recorder] { recorder.exchange->resume_body(); };
    recorder.on_end = [&recorder] { recorder.end(); };
    recorder.exchange->start(ok());
    recorder.exchange->pump();
  });
  auto client = connect();
  client->send(preface() + request("POST", 1));
  ASSERT_TRUE(until([&] { return frames(client->text, 1, 1) == 1; }, {client.get()}));
  client->send(data(1, "some") + data(1, "more", kEndStream));
  ASSERT_TRUE(until([&] { return script.last().body == "some"; }, {client.get()}));
  settle(client.get());
  const base::Time begun = base::Clock::now();
  script.last().exchange->pump();
  ASSERT_TRUE(until([&] { return script.last().body == "somemore"; }, {client.get()}));
  EXPECT_LT(base::Clock::now() - begun, std::chrono::seconds(2));
}

TEST_F(H2Hostile, AnAnswerToHeadIsDroppedWithoutWaiting) {
  script.record([](Recorder& recorder) {
    recorder.exchange->start(ok());
    for (int i = 0; i < 60; ++i) {
      recorder.source.push_back("piece");
    }
    recorder.end();
  });
  auto client = connect();
  const base::Time begun = base::Clock::now();
  client->send(preface() + request("HEAD", 1, kEndStream));
  ASSERT_TRUE(until([&] { return ended(*client, 1); }, {client.get()}));
  EXPECT_LT(base::Clock::now() - begun, std::chrono::seconds(2));
}

// A client that reads nothing and sends what has to be answered must not fill our memory.
TEST_F(H2Hostile, FramesThatMustBeAnsweredAreNotReadWithoutEnd) {
  Limits limits;
  limits.streams_max = 2;
  serve(limits);
  script.record([](Recorder& recorder) {
    recorder.exchange->start(ok());
    recorder.source.push_back(std::string(1'000, 'x'));
    recorder.source.push_back(std::string(200'000, 'x'));
    recorder.exchange->pump();
  });
  auto client = connect(4096);
  const std::string window = std::string("\x7f\xff\x00\x00", 4);
  client->send(preface(setting(4, 0x7fff0000)) + frame(8, 0, 0, window) +
               request("GET", 1, kEndStream) + request("GET", 3, kEndStream));
  std::string flood;
  std::uint32_t id = 5;
  std::size_t accepted = 0;
  int idle = 0;
  while (idle < 200 && accepted < 64'000'000 && !client->over()) {
    while (flood.size() < 60'000) {
      flood += request("GET", id, kEndStream);
      id += 2;
    }
    const std::size_t took = client->send(flood);
    flood.erase(0, took);
    accepted += took;
    idle = took == 0 ? idle + 1 : 0;
    loop->run_once(std::chrono::milliseconds(1));
  }
  EXPECT_LT(accepted, 16'000'000U);
}

// Streams that the client makes us reset are not counted as running, but their guests were begun:
// as dear as resets of its own (CVE-2025-8671, and CVE-2023-44487 before it).
TEST_F(H2Hostile, AFloodOfStreamsThatHaveToBeResetEndsTheConnection) {
  script.record();
  auto client = connect();
  client->send(preface());
  const std::string too_wide("\x7f\xff\xff\xff", 4);
  for (std::uint32_t id = 1; id < 4000 && !client->over(); id += 2) {
    client->send(request("GET", id, kEndStream) + frame(8, 0, id, too_wide));
    loop->run_once(base::Duration::zero());
    client->take();
  }
  EXPECT_TRUE(until([&] { return client->over(); }, {client.get()}));
  EXPECT_LT(script.recorders.size(), 600U);
  EXPECT_EQ(server->exchanges(), 0U);
}

// As behind a chunked body: a guest that merges trailers into the head must not be misled.
TEST_F(H2Hostile, FieldsThatMustNotBeTrailersAreDropped) {
  script.record();
  auto client = connect();
  client->send(preface() + request("POST", 1) + data(1, "abc") +
               frame(1, kEndHeaders | kEndStream, 1,
                     std::string("\x00\x0d", 2) + "authorization\x01y" +
                         std::string("\x00\x05", 2) + "x-sum\x02" + "42"));
  ASSERT_TRUE(
      until([&] { return !script.recorders.empty() && script.last().ends == 1; }, {client.get()}));
  EXPECT_EQ(script.last().trailers_in, "x-sum=42;");
}

// nghttp2 sends no head above 64 KiB by itself: then the stream has to end, not to wait.
TEST_F(H2Hostile, AHeadOfAnyLengthIsSentOrTheStreamEnds) {
  const std::string large(100'000, 'v');
  script.answer = [&large](Exchange& exchange) {
    const Field field{.name = "x-large", .value = large};
    exchange.respond({.status = 200, .fields = {&field, 1}, .content_length = std::nullopt}, "hi");
  };
  auto client = connect();
  const base::Time begun = base::Clock::now();
  client->send(preface() + request("GET", 1, kEndStream));
  ASSERT_TRUE(
      until([&] { return ended(*client, 1) || frames(client->text, 3, 1) == 1; }, {client.get()}));
  EXPECT_LT(base::Clock::now() - begun, std::chrono::seconds(2));
}

}  // namespace
}  // namespace mik::http::testing

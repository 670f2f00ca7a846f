// Compressed answers: which ones are, what their fields say, and that what is decoded is what the
// handler gave, however it comes.
#include "http/compression.hpp"

#include <brotli/decode.h>
#include <zlib.h>
#include <zstd.h>

#include <map>

#include "http/server_rig.hpp"

namespace mik::http::testing {
namespace {

using Fields = std::vector<std::pair<std::string, std::string>>;

std::string text_of(std::size_t bytes) {
  std::string text;
  for (unsigned number = 1; text.size() < bytes; number = number * 1103515245u + 12345u) {
    text += "{\"id\":" + std::to_string(number) + ",\"name\":\"somebody\"},";
  }
  text.resize(bytes);
  return text;
}

// What can be decoded of a stream that may have no end yet; nothing when it is broken.
std::optional<std::string> gunzip(std::string_view bytes, bool* end = nullptr) {
  z_stream stream{};
  EXPECT_EQ(::inflateInit2(&stream, 15 + 16), Z_OK);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  std::string out;
  std::string block(65536, '\0');
  int result = Z_OK;
  do {
    stream.next_out = reinterpret_cast<Bytef*>(block.data());
    stream.avail_out = static_cast<uInt>(block.size());
    result = ::inflate(&stream, Z_SYNC_FLUSH);
    out.append(block, 0, block.size() - stream.avail_out);
  } while (result == Z_OK && (stream.avail_in > 0 || stream.avail_out == 0));
  ::inflateEnd(&stream);
  if (end != nullptr) {
    *end = result == Z_STREAM_END;
  }
  return result == Z_OK || result == Z_STREAM_END || result == Z_BUF_ERROR ? std::optional(out)
                                                                           : std::nullopt;
}

std::optional<std::string> unbrotli(std::string_view bytes) {
  BrotliDecoderState* const state = ::BrotliDecoderCreateInstance(nullptr, nullptr, nullptr);
  const auto* next = reinterpret_cast<const std::uint8_t*>(bytes.data());
  std::size_t left = bytes.size();
  std::string out;
  BrotliDecoderResult result = BROTLI_DECODER_RESULT_NEEDS_MORE_OUTPUT;
  while (result == BROTLI_DECODER_RESULT_NEEDS_MORE_OUTPUT) {
    std::size_t no_room = 0;
    result = ::BrotliDecoderDecompressStream(state, &left, &next, &no_room, nullptr, nullptr);
    std::size_t size = 0;
    const std::uint8_t* const block = ::BrotliDecoderTakeOutput(state, &size);
    out.append(reinterpret_cast<const char*>(block), size);
  }
  ::BrotliDecoderDestroyInstance(state);
  return result == BROTLI_DECODER_RESULT_SUCCESS ? std::optional(out) : std::nullopt;
}

std::optional<std::string> unzstd(std::string_view bytes) {
  ZSTD_DCtx* const context = ::ZSTD_createDCtx();
  ZSTD_inBuffer in{.src = bytes.data(), .size = bytes.size(), .pos = 0};
  std::string out;
  std::string block(65536, '\0');
  std::size_t left = 1;
  ZSTD_outBuffer to{};
  do {
    to = {.dst = block.data(), .size = block.size(), .pos = 0};
    left = ::ZSTD_decompressStream(context, &to, &in);
    out.append(block, 0, to.pos);
  } while (::ZSTD_isError(left) == 0 && left != 0 && (in.pos < in.size || to.pos == to.size));
  ::ZSTD_freeDCtx(context);
  return left == 0 ? std::optional(out) : std::nullopt;
}

std::optional<std::string> decode(Coding coding, std::string_view bytes) {
  switch (coding) {
    case Coding::kGzip:
      return gunzip(bytes);
    case Coding::kBrotli:
      return unbrotli(bytes);
    case Coding::kZstd:
      return unzstd(bytes);
    case Coding::kIdentity:
      break;
  }
  return std::string(bytes);
}

struct Answer {
  std::string head;
  std::string body;  // without chunks
  bool whole = false;
};

Answer parse(const std::string& text) {
  Answer answer;
  const std::size_t end = text.find("\r\n\r\n");
  if (end == std::string::npos) {
    return answer;
  }
  answer.head = text.substr(0, end + 2);
  std::string rest = text.substr(end + 4);
  if (const std::size_t at = answer.head.find("Content-Length: "); at != std::string::npos) {
    answer.body = rest;
    answer.whole = rest.size() == std::stoul(answer.head.substr(at + 16));
    return answer;
  }
  while (true) {
    const std::size_t line = rest.find("\r\n");
    if (line == std::string::npos) {
      return answer;
    }
    const std::size_t size = std::stoul(rest.substr(0, line), nullptr, 16);
    if (size == 0) {
      answer.whole = true;
      return answer;
    }
    answer.body += rest.substr(line + 2, size);
    if (rest.size() < line + 2 + size + 2) {
      return answer;
    }
    rest.erase(0, line + 2 + size + 2);
  }
}

class CompressionTest : public ServerTest {
 protected:
  // Streams by a Recorder, as a guest does. The fields of the answer are those that prepare() left.
  void stream(Fields fields, std::function<void(Recorder&)> then,
              std::optional<std::uint64_t> length = std::nullopt, int status = 200) {
    fields_ = std::move(fields);
    script.answer = [this, then = std::move(then), length, status](Exchange& exchange) {
      script.recorders.push_back(std::make_unique<Recorder>(exchange));
      const Compression::Wanted wanted = compression.wanted(exchange.head().fields);
      std::vector<Field> out;
      for (const auto& [name, value] : fields_) {
        out.push_back({name, value});
      }
      std::optional<std::uint64_t> known = length;
      coding = compression.prepare(wanted, status, out, known);
      if (coding != Coding::kIdentity) {
        compression.attach(exchange, script.last(), coding);
      }
      exchange.start({.status = status, .fields = out, .content_length = known});
      then(script.last());
    };
  }
  Answer get(Client& client, std::string_view accept) {
    Answer answer;
    client.send("GET / HTTP/1.1\r\nHost: x\r\nAccept-Encoding: " + std::string(accept) +
                "\r\n\r\n");
    EXPECT_TRUE(until(
        [&] {
          answer = parse(client.text);
          return answer.whole || client.over();
        },
        {&client}));
    return answer;
  }
  // The head of an answer to be prepared, without a connection.
  std::map<std::string, std::string> prepared(Fields fields, std::string_view accept,
                                              int status = 200,
                                              std::optional<std::uint64_t> length = std::nullopt,
                                              std::vector<Field> request = {}) {
    request.push_back({"accept-encoding", accept});
    std::vector<Field> out;
    for (const auto& [name, value] : fields) {
      out.push_back({name, value});
    }
    coding = compression.prepare(compression.wanted(request), status, out, length);
    std::map<std::string, std::string> seen;
    for (const Field& field : out) {
      EXPECT_TRUE(seen.emplace(field.name, field.value).second) << field.name << " twice";
    }
    return seen;
  }

  net::Offload offload{*loop, 2, 16};
  Compression compression{*loop, offload, Compression::Mode::kOn};
  Coding coding = Coding::kIdentity;
  Fields fields_;
};

const Fields kJson = {{"Content-Type", "application/json"}};

TEST_F(CompressionTest, EachCodingComesBackWhole) {
  const std::vector<std::pair<std::string, Coding>> codings = {
      {"gzip", Coding::kGzip}, {"br", Coding::kBrotli}, {"zstd", Coding::kZstd}};
  for (const auto& [name, wanted] : codings) {
    for (const std::size_t bytes :
         std::initializer_list<std::size_t>{0, 1, 5000, 65536, 65537, 300'000, 2'000'000}) {
      const std::string text = text_of(bytes);
      stream(kJson, [&](Recorder& recorder) {
        if (!text.empty()) {
          recorder.give(text);
        }
        recorder.end();
      });
      auto client = connect();
      const Answer answer = get(*client, name);
      EXPECT_EQ(coding, wanted);
      EXPECT_TRUE(answer.whole);
      EXPECT_TRUE(has(answer.head, "Content-Encoding: " + name + "\r\n")) << answer.head;
      EXPECT_TRUE(decode(wanted, answer.body) == text) << name << " " << bytes;
      EXPECT_EQ(compression.streams(), 0u);
    }
  }
}

TEST_F(CompressionTest, WhatTheHandlerGivesCanBeDecodedAtOnce) {
  Recorder* recorder = nullptr;
  stream(kJson, [&](Recorder& of) { recorder = &of; });
  auto client = connect();
  client->send("GET / HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n");
  std::string given;
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(until([&] { return recorder != nullptr; }));
    given += "event " + std::to_string(i) + "\n";
    recorder->give("event " + std::to_string(i) + "\n");
    EXPECT_TRUE(until([&] { return gunzip(parse(client->text).body) == given; }, {client.get()}))
        << i;
  }
  recorder->end();
  EXPECT_TRUE(until([&] { return parse(client->text).whole; }, {client.get()}));
}

TEST_F(CompressionTest, ASlowClientStopsTheSource) {
  Recorder* recorder = nullptr;
  stream(kJson, [&](Recorder& of) { recorder = &of; });
  auto client = connect(4096);
  client->send("GET / HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n");
  ASSERT_TRUE(until([&] { return recorder != nullptr; }));
  std::string noise(3'000'000, '\0');
  for (std::size_t i = 0, x = 88172645463325252u; i < noise.size(); ++i) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    noise[i] = static_cast<char>(x);
  }
  for (std::size_t at = 0; at < noise.size(); at += 50'000) {
    recorder->give(noise.substr(at, 50'000));
  }
  recorder->end();
  settle();
  EXPECT_LT(recorder->consumed, 1'500'000u);
  ASSERT_TRUE(until([&] { return parse(client->text).whole; }, {client.get()}));
  EXPECT_TRUE(gunzip(parse(client->text).body) == noise);
}

TEST_F(CompressionTest, AClientThatLeavesDuringAJobHurtsNobody) {
  for (int i = 0; i < 20; ++i) {
    stream(kJson, [&](Recorder& recorder) { recorder.give(text_of(250'000)); });
    auto client = connect();
    client->send("GET / HTTP/1.1\r\nHost: x\r\nAccept-Encoding: br\r\n\r\n");
    ASSERT_TRUE(until([&] { return !script.recorders.empty(); }));
    client->close_with_reset();
    ASSERT_TRUE(until([&] { return script.last().closed.has_value(); }));
    script.recorders.clear();
  }
  EXPECT_TRUE(until([&] { return compression.streams() == 0; }));
}

TEST_F(CompressionTest, ASourceThatIsCutIsCutForTheClient) {
  stream(kJson, [&](Recorder& recorder) {
    recorder.give(text_of(5000));
    recorder.end(SourceState::kCut);
  });
  auto client = connect();
  const Answer answer = get(*client, "gzip");
  EXPECT_FALSE(answer.whole);
  EXPECT_TRUE(client->over());
}

TEST_F(CompressionTest, RespondCompressesSmallAndLargeBodies) {
  for (const std::size_t bytes : std::initializer_list<std::size_t>{1023, 1024, 65536, 1'000'000}) {
    const std::string text = text_of(bytes);
    script.answer = [&](Exchange& exchange) {
      std::vector<Field> fields = {{"Content-Type", "text/plain"}};
      compression.respond(exchange, compression.wanted(exchange.head().fields), 200, fields, text);
    };
    auto client = connect();
    const Answer answer = get(*client, "gzip");
    ASSERT_TRUE(answer.whole) << bytes;
    EXPECT_EQ(has(answer.head, "Content-Encoding"), bytes >= 1024);
    EXPECT_TRUE(has(answer.head, "Vary: Accept-Encoding\r\n"));
    EXPECT_TRUE((bytes >= 1024 ? gunzip(answer.body) : answer.body) == text) << bytes;
  }
}

TEST_F(CompressionTest, OffChangesNothing) {
  Compression off(*loop, offload, Compression::Mode::kOff);
  const std::vector<Field> request = {{"accept-encoding", "gzip"}};
  std::vector<Field> fields = {{"Content-Type", "text/html"}, {"ETag", "\"x\""}};
  std::optional<std::uint64_t> length = 5000;
  EXPECT_EQ(off.prepare(off.wanted(request), 200, fields, length), Coding::kIdentity);
  EXPECT_EQ(fields.size(), 2u);
  EXPECT_EQ(length, 5000u);
}

// Field case 40.
TEST_F(CompressionTest, VaryIsOnAllThatMightHaveBeenCompressed) {
  for (const std::string_view accept : {"", "identity", "gzip;q=0", "gzip", "br;q=0.1"}) {
    EXPECT_EQ(prepared(kJson, accept)["Vary"], "Accept-Encoding") << accept;
    EXPECT_EQ(prepared(kJson, accept, 404, 10)["Vary"], "Accept-Encoding") << accept;
    EXPECT_EQ(prepared({}, accept, 304)["Vary"], "Accept-Encoding") << accept;
  }
  const auto with = [&](const std::string& vary) {
    return prepared({{"Content-Type", "text/html"}, {"Vary", vary}}, "gzip")["Vary"];
  };
  EXPECT_EQ(with("Origin"), "Origin, Accept-Encoding");
  EXPECT_EQ(with("accept-encoding"), "accept-encoding");
  EXPECT_EQ(with("Origin, Accept-Encoding"), "Origin, Accept-Encoding");
  EXPECT_EQ(with("*"), "*");
  EXPECT_EQ(with(""), "Accept-Encoding");
}

TEST_F(CompressionTest, StrongTagsBecomeWeak) {
  const auto tag = [&](const std::string& etag, std::string_view accept, int status = 200) {
    return prepared({{"content-type", "text/html"}, {"etag", etag}}, accept, status)["etag"];
  };
  EXPECT_EQ(tag("\"x\"", "gzip"), "W/\"x\"");
  EXPECT_EQ(tag("W/\"x\"", "gzip"), "W/\"x\"");
  EXPECT_EQ(tag("\"x\"", "identity"), "\"x\"");
  const Fields ranges = {{"Content-Type", "text/html"}, {"Accept-Ranges", "bytes"}};
  EXPECT_FALSE(prepared(ranges, "gzip").contains("Accept-Ranges"));
  EXPECT_TRUE(prepared(ranges, "identity").contains("Accept-Ranges"));
  EXPECT_EQ(tag("\"x\"", "gzip", 304), "W/\"x\"");
}

// RFC 9110 section 15.4.5: what its 200 would have had, as far as it can be known.
TEST_F(CompressionTest, NotModifiedHasTheFieldsOfItsWholeAnswer) {
  const auto of = [&](Fields fields, const char* has, std::string_view accept = "gzip") {
    fields.emplace_back("ETag", "\"x\"");
    auto seen = prepared(
        std::move(fields), accept, 304, std::nullopt,
        has == nullptr ? std::vector<Field>() : std::vector<Field>{{"If-None-Match", has}});
    return std::pair(seen["ETag"], seen["Vary"]);
  };
  const auto weak = std::pair<std::string, std::string>("W/\"x\"", "Accept-Encoding");
  const auto strong = std::pair<std::string, std::string>("\"x\"", "Accept-Encoding");
  const auto alone = std::pair<std::string, std::string>("\"x\"", "");
  EXPECT_EQ(of({}, "W/\"x\""), weak);
  EXPECT_EQ(of({}, "\"y\", W/\"x\""), weak);
  EXPECT_EQ(of({}, nullptr), weak) << "nothing is known of what it has";
  EXPECT_EQ(of({}, "*"), weak);
  EXPECT_EQ(of({}, "\"x\""), strong) << "a compressed one would have a weak tag";
  EXPECT_EQ(of({}, "\"y\", \"x\""), strong);
  EXPECT_EQ(of({}, "W/\"x\"", "identity"), strong);
  EXPECT_EQ(of({{"Content-Type", "text/html"}}, "W/\"x\""), weak);
  EXPECT_EQ(of({{"Content-Type", "image/png"}}, "W/\"x\""), alone);
  EXPECT_EQ(of({{"Cache-Control", "no-transform"}}, "W/\"x\"").second, "");
}

TEST_F(CompressionTest, WhatIsLeftAlone) {
  const auto left = [&](Fields fields, int status = 200,
                        std::optional<std::uint64_t> length = std::nullopt) {
    const auto seen = prepared(std::move(fields), "gzip", status, length);
    return coding == Coding::kIdentity && !seen.contains("Content-Encoding");
  };
  EXPECT_FALSE(left(kJson));
  EXPECT_FALSE(left({{"Content-Type", "TEXT/HTML; charset=utf-8"}}));
  EXPECT_FALSE(left({{"Content-Type", "image/svg+xml"}}));
  EXPECT_FALSE(left({{"Content-Type", "application/problem+json"}}, 502));
  EXPECT_FALSE(left(kJson, 200, 1024));
  EXPECT_TRUE(left(kJson, 200, 1023));
  EXPECT_TRUE(left({}));
  EXPECT_TRUE(left({{"Content-Type", "image/png"}}));
  EXPECT_TRUE(left({{"Content-Type", "text/event-stream"}}));
  EXPECT_TRUE(left({{"Content-Type", "Text/Event-Stream;charset=utf-8"}}));
  for (const int status : {103, 204, 205, 206, 304}) {
    EXPECT_TRUE(left(kJson, status)) << status;
  }
  for (const std::pair<std::string, std::string>& field :
       Fields{{"cache-control", "public, no-transform"},
              {"Content-Range", "bytes 0-1/2"},
              {"Content-MD5", "x"},
              {"Digest", "x"},
              {"Repr-Digest", "x"},
              {"Content-Digest", "x"}}) {
    EXPECT_TRUE(left({{"Content-Type", "text/html"}, field})) << field.first;
  }
  EXPECT_EQ(prepared({{"Content-Type", "text/html"}, {"Content-Encoding", "br"}}, "gzip").size(),
            2u);
}

TEST_F(CompressionTest, ManyStreamsAtOnceAreBounded) {
  std::vector<std::unique_ptr<Client>> clients;
  stream(kJson, [&](Recorder& recorder) { recorder.give(text_of(2000)); });
  for (int i = 0; i < 150; ++i) {
    clients.push_back(connect());
    clients.back()->send("GET / HTTP/1.1\r\nHost: x\r\nAccept-Encoding: zstd\r\n\r\n");
  }
  ASSERT_TRUE(until([&] { return script.recorders.size() == 150; }));
  EXPECT_EQ(compression.streams(), 32u);
  EXPECT_EQ(coding, Coding::kIdentity);
  for (const auto& recorder : script.recorders) {
    recorder->end();
  }
  EXPECT_EQ(compression.streams(), 0u);
}

}  // namespace
}  // namespace mik::http::testing

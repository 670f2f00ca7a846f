// Static files over real sockets: what is answered, and that what is sent is one file.
#include "files/static_files.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "files/file_exchange.hpp"
#include "http/server_rig.hpp"

namespace mik::files {
namespace {

namespace fs = std::filesystem;
using http::testing::Client;
using http::testing::has;

// Remembers how requests have ended, each once.
class End final : public StaticEnd {
 public:
  explicit End(std::vector<http::Closed>& ended) : ended_(ended) {}
  void on_end(const http::Closed& closed) override { ended_.push_back(closed); }
  std::unique_ptr<StaticEnd> keep() override { return std::make_unique<End>(ended_); }

 private:
  std::vector<http::Closed>& ended_;
};

class StaticFilesTest : public http::testing::ServerTest, public StaticObserver {
 protected:
  StaticFilesTest() {
    std::string name = fs::temp_directory_path() / "mik-static-XXXXXX";
    root_ = ::mkdtemp(name.data());
    files_.emplace(root_, *loop, offload_, compression_, *this);
    script.answer = [this](http::Exchange& exchange) {
      const http::RequestHead& head = exchange.head();
      const std::vector<http::Field> own = {{"X-Request-ID", "id"}};
      End end(ended_);
      files_->serve(exchange, {.method = head.method,
                               .path_query = head.path_query,
                               .fields = head.fields,
                               .answer_fields = own,
                               .end = &end});
    };
  }
  ~StaticFilesTest() override {
    server.reset();
    fs::remove_all(root_);
  }

  std::string_view problem(int status, std::string_view detail) override {
    problem_ = std::to_string(status) + " " + std::string(detail);
    return problem_;
  }
  void on_static_error(std::string_view /*path*/, int error) override { errors_.push_back(error); }

  void put(const std::string& path, const std::string& text) {
    fs::create_directories((fs::path(root_) / path).parent_path());
    std::ofstream(fs::path(root_) / path) << text;
  }
  static std::string request(const std::string& target, const std::string& fields = "",
                             const std::string& method = "GET") {
    return method + " " + target + " HTTP/1.1\r\nHost: x\r\n" + fields + "\r\n";
  }
  // One request on a connection that closes behind it.
  std::string get(const std::string& target, const std::string& fields = "",
                  const std::string& method = "GET") {
    auto client = connect();
    return ask_until_close(*client, request(target, fields + "Connection: close\r\n", method));
  }
  static std::string body(const std::string& answer) {
    const std::size_t end = answer.find("\r\n\r\n");
    return end == std::string::npos ? "" : answer.substr(end + 4);
  }
  static std::string field(const std::string& answer, const std::string& name) {
    const std::size_t at = answer.find("\r\n" + name + ": ");
    if (at == std::string::npos) {
      return "";
    }
    const std::size_t begin = at + name.size() + 4;
    return answer.substr(begin, answer.find("\r\n", begin) - begin);
  }
  static int status(const std::string& answer) {
    return answer.size() < 12 ? 0 : std::stoi(answer.substr(9, 3));
  }

  std::string root_;
  net::Offload offload_{*loop, 2, 16};
  http::Compression compression_{*loop, offload_, http::Compression::Mode::kOn};
  std::optional<StaticFiles> files_;
  std::vector<http::Closed> ended_;
  std::vector<int> errors_;
  std::string problem_;
};

TEST_F(StaticFilesTest, AFileWithItsFields) {
  put("a.png", "hello");
  const std::string answer = get("/static/a.png?x=1");
  EXPECT_EQ(status(answer), 200);
  EXPECT_EQ(body(answer), "hello");
  EXPECT_EQ(field(answer, "Content-Type"), "image/png");
  EXPECT_EQ(field(answer, "Content-Length"), "5");
  EXPECT_EQ(field(answer, "Cache-Control"), "public, max-age=3600");
  EXPECT_EQ(field(answer, "Vary"), "Accept-Encoding");
  EXPECT_EQ(field(answer, "Accept-Ranges"), "bytes");
  EXPECT_EQ(field(answer, "X-Request-ID"), "id");
  EXPECT_TRUE(field(answer, "ETag").starts_with("\"")) << answer;
  EXPECT_TRUE(field(answer, "Last-Modified").ends_with(" GMT")) << answer;
  const std::string head = get("/static/a.png", "", "HEAD");
  EXPECT_EQ(body(head), "");
  for (const char* name : {"Content-Type", "Content-Length", "ETag", "Vary", "Cache-Control"}) {
    EXPECT_EQ(field(head, name), field(answer, name)) << name;
  }
  ASSERT_EQ(ended_.size(), 2u);
  EXPECT_EQ(ended_[0].status, 200);
  EXPECT_EQ(ended_[0].body_bytes_out, 5u);
  EXPECT_EQ(ended_[1].status, 200);
  EXPECT_EQ(ended_[1].body_bytes_out, 0u);
}

TEST_F(StaticFilesTest, EmptyAndLargeFiles) {
  put("empty.bin", "");
  EXPECT_EQ(status(get("/static/empty.bin")), 200);
  std::string large;
  for (int i = 0; large.size() < 5'000'000; ++i) {
    large += std::to_string(i) + ",";
  }
  put("large.bin", large);
  for (int i = 0; i < 2; ++i) {
    const std::string answer = get("/static/large.bin");
    EXPECT_EQ(field(answer, "Content-Length"), std::to_string(large.size()));
    EXPECT_TRUE(body(answer) == large);
  }
  put("large.txt", large);
  const std::string packed = get("/static/large.txt", "Accept-Encoding: gzip\r\n");
  EXPECT_EQ(field(packed, "Content-Encoding"), "gzip");
  EXPECT_LT(packed.size(), large.size() / 2);
  EXPECT_TRUE(packed.ends_with("0\r\n\r\n"));
}

TEST_F(StaticFilesTest, OtherMethods) {
  put("a.txt", "hello");
  const std::string answer = get("/static/a.txt", "Content-Length: 2\r\n", "POST");
  EXPECT_EQ(status(get("/static/a.txt", "", "DELETE")), 405);
  EXPECT_EQ(field(get("/static/a.txt", "", "PUT"), "Allow"), "GET, HEAD, OPTIONS");
  const std::string options = get("/static/a.txt", "", "OPTIONS");
  EXPECT_EQ(status(options), 200);
  EXPECT_EQ(field(options, "Allow"), "GET, HEAD, OPTIONS");
}

// Whether it was answered at once, by the pool or piece by piece.
TEST_F(StaticFilesTest, EachRequestIsToldOfItsEndOnce) {
  put("a.txt", std::string(5000, 'a'));
  put("docs/index.html", "index");
  put("large.bin", std::string(300'000, 'x'));
  const auto of = [&](const std::string& target, const std::string& fields = "",
                      const std::string& method = "GET") {
    ended_.clear();
    const std::string answer = get(target, fields, method);
    EXPECT_TRUE(until([&] { return counter.now == 0; }));
    EXPECT_EQ(ended_.size(), 1u) << target;
    EXPECT_EQ(ended_.empty() ? 0 : ended_[0].status, status(answer)) << target;
    EXPECT_EQ(ended_.empty() ? 0 : ended_[0].body_bytes_out, body(answer).size()) << target;
    return status(answer);
  };
  for (int i = 0; i < 2; ++i) {  // what was looked up by the pool is known the second time
    EXPECT_EQ(of("/static/a.txt"), 200);
    EXPECT_EQ(of("/static/a.txt", "", "HEAD"), 200);
    EXPECT_EQ(of("/static/a.txt", "", "OPTIONS"), 200);
    EXPECT_EQ(of("/static/a.txt", "", "DELETE"), 405);
    EXPECT_EQ(of("/static/a.txt", "Accept-Encoding: gzip\r\nAccept: text/plain\r\n"), 200);
    EXPECT_EQ(of("/static/a.txt", "If-None-Match: *\r\n"), 304);
    EXPECT_EQ(of("/static/a.txt", "If-Match: \"x\"\r\n"), 412);
    EXPECT_EQ(of("/static/a.txt", "Range: bytes=0-9\r\n"), 206);
    EXPECT_EQ(of("/static/docs"), 301);
    EXPECT_EQ(of("/static/none"), 404);
    EXPECT_EQ(of("/static/%zz"), 400);
    EXPECT_EQ(of("/static/large.bin"), 200);
    EXPECT_EQ(of("/static/large.bin", "", "HEAD"), 200);
  }
}

TEST_F(StaticFilesTest, FoldersAreRedirectedToTheirSlash) {
  put("docs/index.html", "index");
  const std::string answer = get("/static/docs?a=b&c=//d");
  EXPECT_EQ(status(answer), 301);
  EXPECT_EQ(field(answer, "Location"), "/static/docs/?a=b&c=//d");
  EXPECT_EQ(body(get("/static/docs/")), "index");
  EXPECT_EQ(status(get("/static/")), 404);
}

// Field case 42.
TEST_F(StaticFilesTest, Field42LocationsBeginWithOneSlash) {
  put("evil.example/index.html", "x");
  for (const std::string target :
       {"/static//evil.example", "/static/%2F%2Fevil.example", "/static/..//evil.example",
        "/static/./%2e%2e//evil.example", "/static/evil.example/..//evil.example?q=1"}) {
    const std::string answer = get(target);
    const std::string location = field(answer, "Location");
    EXPECT_TRUE(status(answer) == 404 || location.starts_with("/static/evil.example/")) << answer;
    EXPECT_FALSE(location.starts_with("//"));
  }
  EXPECT_EQ(field(get("/static//evil.example?q=1"), "Location"), "/static/evil.example/?q=1");
}

TEST_F(StaticFilesTest, WhatIsNotServed) {
  put(".env", "secret");
  put("unreadable.txt", "x");
  fs::permissions(fs::path(root_) / "unreadable.txt", fs::perms::none);
  EXPECT_EQ(status(get("/static/.env")), 404);
  EXPECT_EQ(status(get("/static/%zz")), 400);
  EXPECT_EQ(status(get("/static/nothing")), 404);
  if (::geteuid() != 0) {
    EXPECT_EQ(status(get("/static/unreadable.txt")), 403);
    EXPECT_EQ(errors_, std::vector<int>{EACCES});
  }
}

TEST_F(StaticFilesTest, AFolderThatComesLater) {
  files_.emplace(root_ + "/later", *loop, offload_, compression_, *this);
  EXPECT_EQ(status(get("/static/a.txt")), 404);
  put("later/a.txt", "hello");
  EXPECT_EQ(body(get("/static/a.txt")), "hello");
}

TEST_F(StaticFilesTest, ConditionalRequests) {
  put("a.txt", std::string(2000, 'a'));
  const std::string first = get("/static/a.txt");
  const std::string etag = field(first, "ETag");
  const std::string date = field(first, "Last-Modified");
  for (const std::string& tag : {etag, "W/" + etag, "\"a\", W/" + etag, std::string("*")}) {
    const std::string answer = get("/static/a.txt", "If-None-Match: " + tag + "\r\n");
    EXPECT_EQ(status(answer), 304) << tag;
    EXPECT_EQ(body(answer), "");
    EXPECT_EQ(field(answer, "ETag"), etag);
    EXPECT_EQ(field(answer, "Vary"), "Accept-Encoding");
    EXPECT_EQ(field(answer, "Cache-Control"), "public, max-age=3600");
  }
  EXPECT_EQ(status(get("/static/a.txt", "If-None-Match: \"other\"\r\n")), 200);
  EXPECT_EQ(status(get("/static/a.txt", "If-Modified-Since: " + date + "\r\n")), 304);
  EXPECT_EQ(status(get("/static/a.txt", "If-Match: " + etag + "\r\n")), 200);
  EXPECT_EQ(status(get("/static/a.txt", "If-Match: W/" + etag + "\r\n")), 412);
  EXPECT_EQ(status(get("/static/a.txt", "If-Unmodified-Since: " + date + "\r\n")), 200);
  EXPECT_EQ(status(get("/static/a.txt", "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n")),
            412);
}

// Field case 41: the tag of the compressed answer revalidates.
TEST_F(StaticFilesTest, Field41TheWeakTagRevalidates) {
  put("a.txt", std::string(5000, 'a'));
  const std::string gzip = "Accept-Encoding: gzip\r\n";
  const std::string answer = get("/static/a.txt", gzip);
  EXPECT_EQ(field(answer, "Content-Encoding"), "gzip");
  const std::string etag = field(answer, "ETag");
  EXPECT_TRUE(etag.starts_with("W/\""));
  const std::string again = get("/static/a.txt", gzip + "If-None-Match: " + etag + "\r\n");
  EXPECT_EQ(status(again), 304);
  EXPECT_EQ(field(again, "ETag"), etag);
  const std::string ranged =
      get("/static/a.txt", gzip + "Range: bytes=0-9\r\nIf-Range: " + etag + "\r\n");
  EXPECT_EQ(status(ranged), 200);
  EXPECT_EQ(status(get("/static/a.txt", "If-Match: " + etag + "\r\n")), 412);
}

TEST_F(StaticFilesTest, Ranges) {
  put("a.txt", "0123456789");
  const auto ranged = [&](const std::string& range, const std::string& more = "") {
    return get("/static/a.txt", "Range: " + range + "\r\n" + more);
  };
  const std::string part = ranged("bytes=2-4");
  EXPECT_EQ(status(part), 206);
  EXPECT_EQ(body(part), "234");
  EXPECT_EQ(field(part, "Content-Range"), "bytes 2-4/10");
  EXPECT_EQ(field(part, "Content-Type"), "text/plain; charset=utf-8");
  EXPECT_EQ(body(ranged("bytes=-3")), "789");
  const std::string none = ranged("bytes=10-");
  EXPECT_EQ(status(none), 416);
  EXPECT_EQ(field(none, "Content-Range"), "bytes */10");
  EXPECT_EQ(status(ranged("bytes=0-1,3-4")), 200);
  const std::string etag = field(part, "ETag");
  EXPECT_EQ(status(ranged("bytes=2-4", "If-Range: " + etag + "\r\n")), 206);
  EXPECT_EQ(status(ranged("bytes=2-4", "If-Range: W/" + etag + "\r\n")), 200);
  EXPECT_EQ(status(ranged("bytes=2-4", "If-None-Match: " + etag + "\r\n")), 304);
  EXPECT_EQ(status(get("/static/a.txt", "Range: bytes=2-4\r\n", "HEAD")), 200);
  std::string large(1'000'000, 'x');
  large.replace(300'000, 3, "abc");
  put("large.bin", large);
  EXPECT_EQ(body(get("/static/large.bin", "Range: bytes=300000-500000\r\n")),
            large.substr(300'000, 200'001));
}

TEST_F(StaticFilesTest, SiblingsThatAreCompressedAlready) {
  put("a.js", std::string(5000, 'a'));
  put("a.js.gz", "gzipped");
  for (int i = 0; i < 3; ++i) {  // what is not there is remembered
    const std::string answer = get("/static/a.js", "Accept-Encoding: br, gzip\r\n");
    EXPECT_EQ(body(answer), "gzipped");
    EXPECT_EQ(field(answer, "Content-Encoding"), "gzip");
    EXPECT_EQ(field(answer, "Content-Type"), "text/javascript; charset=utf-8");
    EXPECT_FALSE(field(answer, "ETag").starts_with("W/"));
    EXPECT_NE(field(answer, "ETag"), field(get("/static/a.js"), "ETag"));
  }
  EXPECT_EQ(body(get("/static/a.js", "Accept-Encoding: gzip;q=0\r\n")), std::string(5000, 'a'));
  EXPECT_EQ(field(get("/static/a.js.gz"), "Content-Type"), "application/gzip");
}

// Also where the kernel knew at once that they are not there.
TEST_F(StaticFilesTest, MissingSiblingsAreRememberedForASecond) {
  put("a.js", std::string(5000, 'a'));
  for (const char* suffix : {"", ".br", ".zst", ".gz"}) {
    EXPECT_EQ(fs::exists(fs::path(root_) / ("a.js" + std::string(suffix))), *suffix == '\0');
  }
  const base::Time before = base::Clock::now();
  EXPECT_EQ(field(get("/static/a.js", "Accept-Encoding: br\r\n"), "Content-Encoding"), "br");
  put("a.js.br", "brotlied");
  const bool found = body(get("/static/a.js", "Accept-Encoding: br\r\n")) == "brotlied";
  EXPECT_TRUE(!found || base::Clock::now() - before >= std::chrono::seconds(1));
}

// Field case 40, for files.
TEST_F(StaticFilesTest, Field40VaryIsOnAll) {
  put("a.txt", std::string(5000, 'a'));
  const std::string etag = field(get("/static/a.txt"), "ETag");
  for (const std::string& more :
       {std::string(), std::string("Accept-Encoding: identity\r\n"),
        std::string("Accept-Encoding: gzip;q=0\r\n"), std::string("Accept-Encoding: gzip\r\n"),
        std::string("Range: bytes=0-1\r\n"), "If-None-Match: " + etag + "\r\n"}) {
    EXPECT_EQ(field(get("/static/a.txt", more), "Vary"), "Accept-Encoding") << more;
  }
}

// By its name: the old one goes on. In its place: what was promised cannot be kept, and is cut.
TEST_F(StaticFilesTest, AFileThatIsReplacedWhileItIsSentNeverMixes) {
  const std::string old_text(3'000'000, 'o');
  const auto half_read = [&](const std::string& name) {
    put(name, old_text);
    auto client = connect(4096);
    client->send(request("/static/" + name, "Connection: close\r\n"));
    EXPECT_TRUE(until([&] { return client->text.size() > 1000; }, {client.get()}));
    return client;
  };
  auto renamed = half_read("a.bin");
  put("new.bin", std::string(3'000'000, 'n'));
  fs::rename(fs::path(root_) / "new.bin", fs::path(root_) / "a.bin");
  ASSERT_TRUE(until([&] { return renamed->over(); }, {renamed.get()}));
  EXPECT_TRUE(body(renamed->text) == old_text);

  for (const std::size_t bytes : std::initializer_list<std::size_t>{3000000, 10}) {
    auto rewritten = half_read("b.bin");
    put("b.bin", std::string(bytes, 'n'));
    ASSERT_TRUE(until([&] { return rewritten->over(); }, {rewritten.get()}));
    EXPECT_LT(body(rewritten->text).size(), old_text.size());
    EXPECT_EQ(body(rewritten->text).find('n'), std::string::npos);
  }
}

TEST(FileBytes, ManyResponsesHoldLittleEach) {
  FileBytes bytes;
  std::size_t each = bytes.piece();
  EXPECT_EQ(each, 128u << 10);
  for (int i = 0; i < 10000; ++i) {
    each = bytes.piece();
    bytes.change(0, each);
  }
  EXPECT_EQ(each, 4u << 10);
  EXPECT_LT(bytes.held(), 100u << 20);
  bytes.change(bytes.held(), 0);
  EXPECT_EQ(bytes.piece(), 128u << 10);
}

TEST_F(StaticFilesTest, ClientsThatLeaveHurtNobody) {
  put("large.bin", std::string(3'000'000, 'x'));
  for (int i = 0; i < 20; ++i) {
    auto client = connect(4096);
    client->send(request("/static/large.bin"));
    settle(client.get());
    client->close_with_reset();
  }
  EXPECT_TRUE(until([&] { return counter.now == 0; }));
  EXPECT_EQ(std::ranges::count(ended_, http::Outcome::kClientGone, &http::Closed::outcome), 20);
  EXPECT_EQ(status(get("/static/large.bin", "Range: bytes=0-0\r\n")), 206);
}

}  // namespace
}  // namespace mik::files

// What heads and chunks cost: mik_http_parser_bench [ROUNDS]. The best of many short rounds, in ns,
// so that a busy machine does little harm; numbers of docs/adr/0007.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>
#include <string_view>

#include "http/chunked.hpp"
#include "http/request_parser.hpp"

namespace {

using mik::http::ChunkedDecoder;
using mik::http::Field;
using mik::http::Limits;
using mik::http::parse_request_head;
using mik::http::ParseResult;
using mik::http::ParseStatus;
using mik::http::RequestHead;

constexpr std::string_view kSmall = "GET / HTTP/1.1\r\nHost: 127.0.0.1:3000\r\n\r\n";

constexpr std::string_view kBrowser =
    "GET /static/js/app.3f2a91c0.js?v=20240611&lang=en-GB HTTP/1.1\r\n"
    "Host: www.example.com\r\n"
    "Connection: keep-alive\r\n"
    "Cache-Control: max-age=0\r\n"
    "sec-ch-ua: \"Chromium\";v=\"124\", \"Not-A.Brand\";v=\"99\"\r\n"
    "sec-ch-ua-mobile: ?0\r\n"
    "sec-ch-ua-platform: \"Linux\"\r\n"
    "Upgrade-Insecure-Requests: 1\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/124.0.0.0 Safari/537.36\r\n"
    "Accept: "
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n"
    "Sec-Fetch-Site: same-origin\r\n"
    "Sec-Fetch-Mode: navigate\r\n"
    "Sec-Fetch-User: ?1\r\n"
    "Sec-Fetch-Dest: document\r\n"
    "Referer: https://www.example.com/index.html\r\n"
    "Accept-Encoding: gzip, deflate, br, zstd\r\n"
    "Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n"
    "Cookie: session=0123456789abcdef; theme=dark; consent=yes\r\n"
    "If-None-Match: W/\"1a2b3c\"\r\n"
    "DNT: 1\r\n"
    "X-Forwarded-For: 203.0.113.7\r\n"
    "\r\n";

template <class Run>
double best_ns(int rounds, int times, Run run) {
  double best = std::numeric_limits<double>::max();
  for (int round = 0; round < rounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < times; ++i) {
      run();
    }
    const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - start;
    best = std::min(best, spent.count() / times);
  }
  return best;
}

void parse(std::string_view bytes) {
  static std::array<Field, 128> fields;
  const Limits limits;
  RequestHead head;
  std::size_t scanned = 0;
  asm volatile("" : "+m"(bytes));
  const ParseResult result = parse_request_head(bytes, limits, fields, scanned, head);
  asm volatile("" : : "m"(head), "m"(fields) : "memory");
  if (result.status != ParseStatus::kDone) {
    std::abort();
  }
}

void decode(std::string_view bytes) {
  const Limits limits;
  ChunkedDecoder decoder;
  ChunkedDecoder::Step step{};
  do {
    step = decoder.decode(bytes, limits);
    bytes.remove_prefix(step.consumed);
  } while (step.status == ChunkedDecoder::Status::kData);
  if (step.status != ChunkedDecoder::Status::kEnd) {
    std::abort();
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 1000;
  std::printf("small head, %zu bytes: %.1f ns\n", kSmall.size(),
              best_ns(rounds, 2'000, [] { parse(kSmall); }));
  std::printf("browser head, %zu bytes: %.1f ns\n", kBrowser.size(),
              best_ns(rounds, 500, [] { parse(kBrowser); }));
  std::string chunks;
  for (int i = 0; i < 16; ++i) {
    chunks += "1000\r\n" + std::string(4096, 'x') + "\r\n";
  }
  chunks += "0\r\n\r\n";
  std::printf("64 KiB in 16 chunks: %.1f ns\n",
              best_ns(rounds, 100, [&chunks] { decode(chunks); }));
  return 0;
}

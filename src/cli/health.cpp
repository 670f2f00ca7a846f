#include "cli/health.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <netdb.h>
#include <array>
#include <cerrno>
#include <string>

#include <fmt/format.h>

#include "base/fd.hpp"
#include "base/time.hpp"
#include "cli/binds.hpp"
#include "cli/resolve.hpp"
#include "http/response_parser.hpp"
#include "http/url.hpp"

namespace mik::cli {

namespace {

using base::Error;
using base::ErrorCode;
constexpr auto kPatience = std::chrono::seconds(5);

struct Target {
  std::string host;
  std::string port;
};

base::Result<Target> target_of(const HealthArguments& arguments) {
  if (arguments.url.has_value()) {
    std::string_view rest = *arguments.url;
    if (!rest.starts_with("http://")) {
      return Error(ErrorCode::kUsage,
                   fmt::format("--url '{}' does not begin with http://", *arguments.url))
          .with_help("write it as http://127.0.0.1:3000");
    }
    rest = rest.substr(7);
    rest = rest.substr(0, rest.find('/'));
    const std::size_t colon = rest.rfind(':');
    const bool has_port =
        colon != std::string_view::npos && rest.find(']', colon) == std::string_view::npos;
    std::string_view host = has_port ? rest.substr(0, colon) : rest;
    if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
      host = host.substr(1, host.size() - 2);
    }
    return Target{std::string(host), has_port ? std::string(rest.substr(colon + 1)) : "80"};
  }
  MIK_TRY_ASSIGN(const std::optional<std::uint16_t> from_environment,
                 port_of(process_environment()));
  return Target{"127.0.0.1",
                fmt::format("{}", arguments.port.value_or(from_environment.value_or(3000)))};
}

base::Result<base::Fd> connect_to(const Target& target) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  if (const int error = ::getaddrinfo(target.host.c_str(), target.port.c_str(), &hints, &list);
      error != 0) {
    return Error(ErrorCode::kUsage,
                 fmt::format("'{}' is no host: {}", target.host, ::gai_strerror(error)));
  }
  base::Fd socket(::socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const timeval patience{5, 0};
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  const int connected = ::connect(socket.get(), list->ai_addr, list->ai_addrlen);
  const int error = errno;
  ::freeaddrinfo(list);
  if (connected != 0) {
    return Error::from_errno(fmt::format("no server on {}:{}", target.host, target.port), error);
  }
  return socket;
}

base::Result<std::string> exchange(int socket, const std::string& request) {
  if (::send(socket, request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size())) {
    return Error::from_errno("cannot send the question", errno);
  }
  std::string answer;
  std::array<char, 4096> block;
  const base::Time give_up = base::Clock::now() + kPatience;
  while (base::Clock::now() < give_up) {
    const ssize_t n = ::recv(socket, block.data(), block.size(), 0);
    if (n < 0) {
      return Error::from_errno("no answer", errno);
    }
    if (n == 0) {
      return answer;
    }
    answer.append(block.data(), static_cast<std::size_t>(n));
  }
  return Error(ErrorCode::kTimeout, "no complete answer within 5 s");
}

}  // namespace

base::Result<void> health(const HealthArguments& arguments) {
  MIK_TRY_ASSIGN(const Target target, target_of(arguments));
  MIK_TRY_ASSIGN(const base::Fd socket, connect_to(target));
  const std::string request =
      fmt::format("GET /health/{} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                  arguments.ready ? "ready" : "live", target.host);
  MIK_TRY_ASSIGN(const std::string answer, exchange(socket.get(), request));
  std::array<http::Field, 64> fields;
  std::size_t scanned = 0;
  http::ResponseStatus response;
  const http::ParseResult parsed =
      http::parse_response_head(answer, http::Limits{}, fields, "GET", scanned, response);
  if (parsed.status != http::ParseStatus::kDone) {
    return Error(ErrorCode::kBadMessage, "the answer is no HTTP response");
  }
  fmt::print("{}", answer.substr(parsed.head_bytes));
  if (response.status != 200) {
    return Error(ErrorCode::kOverload, fmt::format("the server answered {}", response.status));
  }
  return {};
}

}  // namespace mik::cli

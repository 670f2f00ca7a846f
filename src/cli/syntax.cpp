#include "cli/syntax.hpp"

#include <sys/un.h>

#include <span>
#include <string>
#include <string_view>

#include "http/allow_list.hpp"
#include "http/forwarded.hpp"
#include "net/socket.hpp"

namespace mik::cli {

namespace {

constexpr std::string_view kUnix = "unix:";

std::string check_bind(const std::string& text) {
  if (text.starts_with(kUnix)) {
    const std::string_view path = std::string_view(text).substr(kUnix.size());
    if (!path.starts_with('/')) {
      return "the path of a unix socket is absolute: \"unix:/run/mik/http.sock\"";
    }
    return path.size() < sizeof(sockaddr_un::sun_path)
               ? std::string()
               : "the path of a unix socket has at most 107 bytes";
  }
  return net::parse_socket_address(text).has_value()
             ? std::string()
             : "must be ADDRESS:PORT or unix:PATH, as \"127.0.0.1:3000\", \"[::1]:3000\", "
               "\"unix:/run/mik/http.sock\"";
}

// The caller has named the key and the value: the rest of a message, and its help.
std::string rest_of(const base::Error& error, std::string_view from) {
  const std::string& message = error.message();
  const std::size_t start = message.find(from);
  return message.substr(start == std::string::npos ? 0 : start) +
         (error.help().empty() ? "" : "; " + error.help());
}

std::string check_network(const std::string& text) {
  const auto compiled = http::TrustedProxies::compile(std::span(&text, 1));
  return compiled.has_value() ? std::string() : rest_of(compiled.error(), "");
}

std::string check_host_pattern(const std::string& text, config::HttpPrivate policy) {
  const auto compiled = http::AllowList::compile(
      std::span(&text, 1), policy == config::HttpPrivate::kDeny    ? http::PrivatePolicy::kDeny
                           : policy == config::HttpPrivate::kAllow ? http::PrivatePolicy::kAllow
                                                                   : http::PrivatePolicy::kNamed);
  return compiled.has_value() ? std::string() : rest_of(compiled.error(), "can never match");
}

}  // namespace

config::Syntax manifest_syntax() {
  return {.bind = check_bind, .network = check_network, .host_pattern = check_host_pattern};
}

}  // namespace mik::cli

#include "cli/binds.hpp"

#include <netdb.h>
#include <netinet/in.h>

#include <charconv>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "net/socket.hpp"

namespace mik::cli {

namespace {

using base::Error;
using base::ErrorCode;
using config::Origin;

// "127.0.0.1", "::1", "[::1]" and names; as "address:port" of the first address.
base::Result<std::string> bind_address(std::string host, std::uint16_t port,
                                       std::string_view said_by) {
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  const bool v6 = host.find(':') != std::string::npos;
  std::string text = v6 ? fmt::format("[{}]:{}", host, port) : fmt::format("{}:{}", host, port);
  if (net::parse_socket_address(text).has_value()) {
    return text;
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  if (const int error = ::getaddrinfo(host.c_str(), nullptr, &hints, &list); error != 0) {
    return Error(ErrorCode::kUsage,
                 fmt::format("{} '{}' is no address: {}", said_by, host, ::gai_strerror(error)))
        .with_help("use an address such as 127.0.0.1, 0.0.0.0 or ::1");
  }
  net::SocketAddress address;
  std::memcpy(&address.storage, list->ai_addr, list->ai_addrlen);
  address.length = list->ai_addrlen;
  ::freeaddrinfo(list);
  return address.storage.ss_family == AF_INET6 ? fmt::format("[{}]:{}", address.host(), port)
                                               : fmt::format("{}:{}", address.host(), port);
}

struct Host {
  std::string text;
  Origin origin;  // kDefault: nobody said anything
};

Host host_of(const RunArguments& flags, const config::Environment& environment) {
  if (flags.host.has_value()) {
    return {*flags.host, {Origin::Kind::kFlag, "--host", 0, 0}};
  }
  if (flags.local) {
    return {"127.0.0.1", {Origin::Kind::kFlag, "--local", 0, 0}};
  }
  if (environment("MIK_LOCAL").has_value()) {
    return {"127.0.0.1", {Origin::Kind::kEnvironment, "MIK_LOCAL", 0, 0}};
  }
  if (const auto host = environment("HOST"); host.has_value() && !host->empty()) {
    return {*host, {Origin::Kind::kEnvironment, "HOST", 0, 0}};
  }
  return {"127.0.0.1", {}};
}

}  // namespace

base::Result<std::optional<std::uint16_t>> port_of(const config::Environment& environment) {
  const auto text = environment("PORT");
  if (!text.has_value() || text->empty()) {
    return std::optional<std::uint16_t>();
  }
  std::uint16_t port = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), port);
  if (error != std::errc() || end != text->data() + text->size() || port == 0) {
    return Error(ErrorCode::kUsage, fmt::format("PORT '{}' is not a port", *text))
        .with_help("set PORT to a number from 1 to 65535, or unset it");
  }
  return std::optional<std::uint16_t>(port);
}

base::Result<Binds> resolve_binds(const RunArguments& flags, const config::Environment& environment,
                                  const config::Document& document) {
  MIK_TRY_ASSIGN(const std::optional<std::uint16_t> from_environment, port_of(environment));
  const Host host = host_of(flags, environment);
  const config::Value& file_port = *document.find(config::SectionId::kServer, "port");
  std::uint16_t port = static_cast<std::uint16_t>(file_port.whole());
  Origin origin = file_port.origin;
  if (flags.port.has_value()) {
    port = *flags.port;
    origin = {Origin::Kind::kFlag, "--port", 0, 0};
  } else if (from_environment.has_value()) {
    port = *from_environment;
    origin = {Origin::Kind::kEnvironment, "PORT", 0, 0};
  }
  Binds binds;
  const bool overridden = host.origin.kind != Origin::Kind::kDefault || flags.port.has_value() ||
                          from_environment.has_value();
  const config::Value* list = document.find(config::SectionId::kServer, "bind");
  if (list != nullptr && !list->texts().empty()) {
    if (!overridden) {
      return Binds{.addresses = list->texts(), .origin = list->origin, .warning = {}};
    }
    binds.warning = fmt::format(
        "{}: server.bind is not used: {} says where to listen", list->origin.to_string(),
        (host.origin.kind != Origin::Kind::kDefault ? host.origin : origin).to_string());
  }
  MIK_TRY_ASSIGN(
      std::string address,
      bind_address(host.text, port,
                   host.origin.kind == Origin::Kind::kDefault ? "the default" : host.origin.name));
  binds.addresses.push_back(std::move(address));
  // Of two that took part the stronger one is named.
  binds.origin = host.origin.kind > origin.kind ? host.origin : origin;
  return binds;
}

}  // namespace mik::cli

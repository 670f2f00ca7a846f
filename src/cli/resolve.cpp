#include "cli/resolve.hpp"

#include <netdb.h>
#include <netinet/in.h>
#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

#include <fmt/format.h>

#include "cli/component_path.hpp"
#include "http/allow_list.hpp"
#include "net/socket.hpp"
#include "supervisor/cpus.hpp"
#include "telemetry/log.hpp"

namespace mik::cli {

namespace {

using base::Error;
using base::ErrorCode;
constexpr std::uint16_t kDefaultPort = 3000;

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

base::Result<std::string> resolve_bind(const RunArguments& arguments,
                                       const Environment& environment) {
  MIK_TRY_ASSIGN(const std::optional<std::uint16_t> from_environment, port_of(environment));
  const std::uint16_t port = arguments.port.value_or(from_environment.value_or(kDefaultPort));
  if (arguments.host.has_value()) {
    return bind_address(*arguments.host, port, "--host");
  }
  if (arguments.local || environment("MIK_LOCAL").has_value()) {
    return bind_address("127.0.0.1", port, "--local");
  }
  const auto host = environment("HOST");
  if (host.has_value() && !host->empty()) {
    return bind_address(*host, port, "HOST");
  }
  return bind_address("127.0.0.1", port, "the default");
}

void resolve_log(config::Settings& settings, bool verbose, const Environment& environment,
                 bool terminal, std::vector<std::string>& warnings) {
  settings.log_format = terminal ? config::LogFormat::kText : config::LogFormat::kJson;
  const auto rust_log = environment("RUST_LOG");
  if (!rust_log.has_value()) {
    settings.log_level = verbose ? config::LogLevel::kDebug : config::LogLevel::kInfo;
    return;
  }
  bool bad = false;
  settings.log_level = telemetry::parse_rust_log(*rust_log, bad);
  if (bad) {
    warnings.push_back(fmt::format("RUST_LOG '{}' is not understood: info is used", *rust_log));
  }
}

}  // namespace

Environment process_environment() {
  return [](std::string_view name) -> std::optional<std::string> {
    const char* value = std::getenv(std::string(name).c_str());
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  };
}

base::Result<std::optional<std::uint16_t>> port_of(const Environment& environment) {
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

base::Result<std::string> state_dir(const Environment& environment) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (const auto home = environment("MIK_HOME"); home.has_value() && !home->empty()) {
    return fs::absolute(*home, ignored).string();
  }
  constexpr const char* kSystem = "/var/lib/mik";
  if (fs::is_directory(kSystem, ignored) && ::access(kSystem, W_OK) == 0) {
    return std::string(kSystem);
  }
  const auto home = environment("HOME");
  if (!home.has_value() || home->empty()) {
    return Error(ErrorCode::kConfig,
                 "neither MIK_HOME nor HOME says where to keep compiled components")
        .with_help("set MIK_HOME to a folder that this user can write");
  }
  return fs::absolute(*home, ignored).string() + "/.mik";
}

base::Result<Resolved> resolve_run(const RunArguments& arguments, bool verbose,
                                   const Environment& environment, bool stdout_is_terminal) {
  Resolved resolved;
  config::Settings& settings = resolved.settings;
  MIK_TRY_ASSIGN(ComponentFile component, find_component(arguments.path));
  settings.component_path = std::move(component.path);
  settings.component_name = std::move(component.name);
  if (!component.warning.empty()) {
    resolved.warnings.push_back(std::move(component.warning));
  }
  MIK_TRY_ASSIGN(std::string bind, resolve_bind(arguments, environment));
  settings.binds = {std::move(bind)};
  MIK_TRY_ASSIGN(settings.state_dir, state_dir(environment));

  const supervisor::CpuBudget cpus = supervisor::cpu_budget();
  const std::uint32_t workers = arguments.workers.value_or(0);
  settings.workers = workers == 0 ? cpus.count : workers;
  settings.pin_workers = cpus.pins(settings.workers);

  settings.guest.execution_timeout = std::chrono::seconds(arguments.timeout_secs.value_or(30));
  settings.guest.cpu_budget = settings.guest.execution_timeout;
  settings.guest.memory_limit_bytes =
      arguments.memory_limit_bytes.value_or(settings.guest.memory_limit_bytes);
  settings.guest.reuse = arguments.reuse.value_or(1);
  settings.guest.env = arguments.env;
  settings.guest.http_allowed = arguments.allow_hosts;
  if (const auto list = http::AllowList::compile(settings.guest.http_allowed); !list.has_value()) {
    return base::Error(list.error()).because("--allow-host cannot be used");
  }
  resolve_log(settings, verbose, environment, stdout_is_terminal, resolved.warnings);
  return resolved;
}

}  // namespace mik::cli

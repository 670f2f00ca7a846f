#include "config/model_server.hpp"

#include <array>

#include "config/model_rows.hpp"

namespace mik::config::rows {

namespace {

constexpr SectionId kIn = SectionId::kServer;
using enum Type;

constexpr Key automatic(std::string_view name, std::uint64_t max, std::string_view meaning,
                        std::string_view what_0_means, void (*apply)(const Target&, const Value&)) {
  return {.section = kIn,
          .name = name,
          .type = kWhole,
          .fallback = "0",
          .meaning = meaning,
          .apply = apply,
          .max = max,
          .automatic = what_0_means};
}

constexpr Key whole_key(std::string_view name, std::string_view fallback, std::uint64_t min,
                        std::uint64_t max, std::string_view meaning,
                        void (*apply)(const Target&, const Value&)) {
  return {kIn, name, kWhole, fallback, meaning, apply, min, max};
}

constexpr Key later(Key key) {
  key.later = true;
  return key;
}

void private_policy(const Target& target, const Value& value) {
  target.settings->http_private = value.text() == "deny"    ? HttpPrivate::kDeny
                                  : value.text() == "allow" ? HttpPrivate::kAllow
                                                            : HttpPrivate::kNamed;
}

constexpr std::array kKeys = {
    Key{kIn, "auto", kBool, "true",
        "Size what is 0 below from memory and cores of the control group; false: fixed sizes.",
        in_build},
    whole_key("port", "3000", 1, 65535,
              "Port on 127.0.0.1; `--host` and `HOST` name another address.", in_build),
    Key{kIn, "bind", kTexts, "",
        "Where to listen, in place of `port`: `127.0.0.1:3000`, `[::1]:3000`, "
        "`unix:/run/mik/http.sock`. Flags, `PORT` and `HOST` win.",
        in_build, 0, 0, Check::kBind},
    Key{.section = kIn,
        .name = "admin",
        .type = kText,
        .fallback = "",
        .meaning = "Where `/metrics`, `/_mik` and verbose health are answered, and then no longer "
                   "on the public port: `127.0.0.1:3900`, `unix:/run/mik/admin.sock`. With a key "
                   "set they need `X-API-Key` there.",
        .apply = text<&Settings::admin>,
        .check = Check::kBind},
    Key{kIn, "tls_cert", kPath, "",
        "Certificate chain (PEM): HTTPS with ALPN h2 and http/1.1 on every TCP address. SIGHUP "
        "reads it again.",
        text<&Settings::tls_cert>, 0, 0, Check::kNotEmpty},
    Key{kIn, "tls_key", kPath, "", "Its private key (PEM).", text<&Settings::tls_key>, 0, 0,
        Check::kNotEmpty},
    Key{kIn, "trusted_proxies", kTexts, "[\"127.0.0.0/8\", \"::1\"]",
        "Whose `Forwarded`, `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Real-IP` are believed: "
        "addresses and CIDR ranges. Unix sockets are always.",
        texts<&Settings::trusted_proxies>, 0, 0, Check::kNetwork},
    automatic("workers", 256, "Worker processes.",
              "one for each usable core (affinity mask, quota of the control group rounded up)",
              in_build),
    Key{kIn, "modules", kPath, "\"modules/\"",
        "Folder of modules, each answering at `/run/<file stem>/`; or one component file.",
        in_build, 0, 0, Check::kNotEmpty},
    Key{kIn, "user_modules", kPath, "",
        "Folder of tenants: `<tenant>/<module>.wasm` answers at `/tenant/<tenant>/<module>/`.",
        text<&Settings::user_modules_dir>, 0, 0, Check::kNotEmpty},
    Key{kIn, "static", kPath, "", "Folder of static files, answered at `/static/`.",
        text<&Settings::static_dir>, 0, 0, Check::kNotEmpty},
    Key{kIn, "compression", kBool, "true",
        "Compress answers (zstd, br, gzip) for clients that take it: text, JSON, XML and "
        "JavaScript from 1 KiB.",
        flag<&Settings::compression>},
    later({kIn, "scripts", kPath, "", "Folder of scripts.", text<&Settings::scripts_dir>, 0, 0,
           Check::kNotEmpty}),
    Key{kIn, "root", kText, "",
        "The module that answers paths which nothing else claims. A single component does so "
        "anyway.",
        text<&Settings::root>, 0, 0, Check::kModule},
    automatic(
        "cache_size", 1'000'000, "Modules kept loaded.",
        "memory / 10 MiB, from 10 to 1000; 100 without `auto`, and for a component without a file",
        whole<&Settings::cache_size>),
    automatic("max_cache_mb", kMiB, "MiB of artefacts kept loaded.",
              "a tenth of the memory, from 64 to 1024; 256 likewise",
              whole<&Settings::max_cache_bytes, kMiB>),
    automatic("aot_max_mb", kMiB, "MiB of artefacts on disk, wherever they lie.",
              "the smaller of 1024 and a quarter of the disk",
              whole<&Settings::aot_max_bytes, kMiB>),
    automatic("memory_budget_mb", 16 * kMiB,
              "MiB for memories of guests, bodies and compile children together; above it 503, "
              "and compiles wait.",
              "70 % of the memory", whole<&Settings::memory_budget_bytes, kMiB>),
    whole_key("max_body_size_mb", "10", 0, kMiB, "MiB of a request's body; above it 413.",
              whole<&Settings::max_body_bytes, kMiB>),
    whole_key("execution_timeout_secs", "30", 1, 300,
              "Seconds until the head of a response must be out; else 504. What the client's "
              "bytes take is not counted.",
              seconds<&GuestSettings::execution_timeout>),
    automatic("cpu_ms", 3'600'000, "CPU time of one request, streaming included.",
              "`execution_timeout_secs`", milliseconds<&GuestSettings::cpu_budget>),
    whole_key("memory_limit_bytes", "134217728", kMiB, 4096 * kMiB, "Linear memory of one request.",
              whole<&GuestSettings::memory_limit_bytes>),
    whole_key("reuse", "1", 1, 1'000'000, "Requests per instance; 1: a fresh one for each.",
              whole<&GuestSettings::reuse>),
    automatic("max_concurrent_requests", 1'000'000, "Requests at once; above it 503.",
              "150 for each core, from 100 to 10000; 1000 without `auto`, and for a component "
              "without a file",
              whole<&Settings::max_concurrent_requests>),
    automatic("max_per_module_requests", 1'000'000,
              "Requests at once of one module; above it 429. At most `max_concurrent_requests`.",
              "a tenth of `max_concurrent_requests`, from 10 to 500; 10 without `auto`; never more "
              "than `max_concurrent_requests`; a single component may have all",
              whole<&GuestSettings::max_requests>),
    whole_key("queue_ms", "0", 0, 60'000,
              "How long a request may wait for its turn before it is refused.",
              milliseconds<&Settings::queue>),
    Key{kIn, "adaptive_limit", kBool, "false",
        "Lower the number of requests at once while latency grows.",
        flag<&Settings::adaptive_limit>},
    whole_key("shutdown_timeout_secs", "30", 0, kDay,
              "How long requests in flight may take when the server ends; 0: not at all.",
              seconds<&Settings::shutdown_timeout>),
    Key{kIn, "http_allowed", kTexts, "[]",
        "Where guests may connect: `api.example.com`, `*.example.com` (it and all below), "
        "`127.0.0.1`, `[::1]`, `*`, each with or without `:port`. Empty: nowhere.",
        texts<&GuestSettings::http_allowed>, 0, 0, Check::kHostPattern},
    Key{.section = kIn,
        .name = "http_private",
        .type = kText,
        .fallback = "\"named\"",
        .meaning = "Private addresses: `named`: for patterns other than `*`; `deny`; `allow`.",
        .apply = private_policy,
        .check = Check::kChoice,
        .choices = "named|deny|allow"},
    Key{kIn, "http_ca_file", kPath, "",
        "Certificates (PEM) that outgoing requests trust besides the system's.",
        text<&Settings::http_ca_file>, 0, 0, Check::kNotEmpty},
    Key{kIn, "env", kPairs, "{}",
        "What guests see as their environment; nothing else is visible. `${NAME}` is taken from "
        "the environment of mik at its start and must be set there; `$${` is `${`.",
        pairs<&GuestSettings::env>},
    later({.section = kIn,
           .name = "services",
           .type = kTexts,
           .fallback = "[]",
           .meaning = "Grants of services; tenants have none of these.",
           .apply = texts<&GuestSettings::services>,
           .check = Check::kChoice,
           .choices = "kv|sql|storage"}),
    whole_key("header_timeout_secs", "10", 1, kDay,
              "From the first byte of a request's head to its end; else 408.",
              seconds<&Settings::header_timeout>),
    whole_key("idle_timeout_secs", "130", 1, kDay,
              "Between requests of a connection. Longer than nginx's 60 and Caddy's 120, so that "
              "the proxy closes first.",
              seconds<&Settings::idle_timeout>),
    whole_key("body_timeout_secs", "30", 1, kDay,
              "How long the client's body, or its reading of ours, may make no progress.",
              seconds<&Settings::body_timeout>),
    whole_key("stream_idle_secs", "60", 1, kDay,
              "After the head of a response: how long the guest may produce nothing.",
              seconds<&Settings::stream_idle>),
    whole_key("stream_max_secs", "0", 0, 365 * kDay,
              "After the head of a response: limit of the whole stream; 0: none.",
              seconds<&Settings::stream_max>),
    whole_key("max_connections", "10000", 1, 10'000'000,
              "Connections at once. Lowered, and said, where the limit of descriptors is short.",
              whole<&Settings::max_connections>),
    whole_key("max_header_kb", "64", 1, 1024, "KiB of a request's head; above it 431.",
              whole<&Settings::max_header_bytes, 1024>),
    whole_key("watch_debounce_ms", "300", 0, 60'000,
              "How long a file must have been quiet before it is taken for whole.",
              milliseconds<&Settings::watch_debounce>),
    Key{kIn, "logging", kBool, "false", "Accepted: `wasi:logging` is always offered to guests.",
        flag<&Settings::guest_logging>},
    Key{kIn, "log_file", kPath, "",
        "Where the log goes; without it standard output. SIGUSR1: it is opened again.",
        text<&Settings::log_file>, 0, 0, Check::kNotEmpty},
    Key{.section = kIn,
        .name = "log_format",
        .type = kText,
        .fallback = "\"auto\"",
        .meaning = "`auto`: text on a terminal, else json.",
        .apply = in_build,
        .check = Check::kChoice,
        .choices = "auto|text|json"},
    whole_key(
        "log_max_size_mb", "10", 1, kMiB,
        "MiB after which the log is rotated. Named without `log_file` (as `log_max_files`): the "
        "log goes to standard output and to `logs/NAME-PORT.log` in the state folder.",
        whole<&Settings::log_max_bytes, kMiB>),
    whole_key("log_max_files", "5", 1, 1000, "How many rotated logs are kept.",
              whole<&Settings::log_max_files>),
};

}  // namespace

std::span<const Key> server_keys() noexcept { return kKeys; }

}  // namespace mik::config::rows

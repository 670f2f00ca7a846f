#include "config/settings.hpp"

#include <algorithm>
#include <concepts>
#include <cstring>
#include <type_traits>

namespace mik::config {

namespace {

template <class Archive, class Value>
  requires std::same_as<std::remove_const_t<Value>, ModuleSettings>
void visit(Archive& archive, Value& m);
template <class Archive, class Value>
  requires std::same_as<std::remove_const_t<Value>, TenantSettings>
void visit(Archive& archive, Value& t);
template <class Archive, class Value>
  requires std::same_as<std::remove_const_t<Value>, RouteSettings>
void visit(Archive& archive, Value& r);

// The first bytes of a block: another layout is another number.
constexpr std::uint32_t kMagic = 0x6d696b01;

class Writer {
 public:
  explicit Writer(std::string& out) : out_(out) {}
  bool ok() const { return true; }

  template <class T>
  void operator()(const T& value) {
    if constexpr (std::is_enum_v<T> || std::is_arithmetic_v<T>) {
      out_.append(reinterpret_cast<const char*>(&value), sizeof value);
    } else {
      write(value);
    }
  }

 private:
  void write(base::Duration value) { (*this)(static_cast<std::int64_t>(value.count())); }
  void write(const std::string& value) {
    (*this)(static_cast<std::uint64_t>(value.size()));
    out_ += value;
  }
  template <class A, class B>
  void write(const std::pair<A, B>& value) {
    (*this)(value.first);
    (*this)(value.second);
  }
  template <class T>
  void write(const std::vector<T>& values) {
    (*this)(static_cast<std::uint64_t>(values.size()));
    for (const T& value : values) {
      (*this)(value);
    }
  }
  template <class T>
  void write(const T& value) {
    visit(*this, value);
  }

  std::string& out_;
};

class Reader {
 public:
  explicit Reader(std::string_view in) : in_(in) {}
  // All was there and nothing is left over.
  bool ok() const { return ok_ && in_.empty(); }

  template <class T>
  void operator()(T& value) {
    if constexpr (std::is_enum_v<T> || std::is_arithmetic_v<T>) {
      if (in_.size() < sizeof value) {
        fail();
        return;
      }
      // NOLINTNEXTLINE(bugprone-suspicious-stringview-data-usage): its size was looked at
      std::memcpy(&value, in_.data(), sizeof value);
      in_.remove_prefix(sizeof value);
    } else {
      read(value);
    }
  }

 private:
  void fail() {
    ok_ = false;
    in_ = {};
  }
  void read(base::Duration& value) {
    std::int64_t count = 0;
    (*this)(count);
    value = base::Duration(count);
  }
  void read(std::string& value) {
    std::uint64_t size = 0;
    (*this)(size);
    if (size > in_.size()) {
      fail();
      return;
    }
    value.assign(in_.substr(0, size));
    in_.remove_prefix(size);
  }
  template <class A, class B>
  void read(std::pair<A, B>& value) {
    (*this)(value.first);
    (*this)(value.second);
  }
  template <class T>
  void read(std::vector<T>& values) {
    std::uint64_t size = 0;
    (*this)(size);
    for (std::uint64_t i = 0; i < size && ok_; ++i) {
      (*this)(values.emplace_back());
    }
  }
  template <class T>
  void read(T& value) {
    visit(*this, value);
  }

  std::string_view in_;
  bool ok_ = true;
};

// Every member, once, for both directions.
template <class Archive, class Value>
void visit_guest(Archive& archive, Value& g) {
  archive(g.execution_timeout);
  archive(g.cpu_budget);
  archive(g.memory_limit_bytes);
  archive(g.max_requests);
  archive(g.cpu_share);
  archive(g.reuse);
  archive(g.env);
  archive(g.http_allowed);
  archive(g.services);
}

template <class Archive, class Value>
  requires std::same_as<std::remove_const_t<Value>, ModuleSettings>
void visit(Archive& archive, Value& m) {
  archive(m.name);
  visit_guest(archive, m.guest);
}

template <class Archive, class Value>
  requires std::same_as<std::remove_const_t<Value>, TenantSettings>
void visit(Archive& archive, Value& t) {
  archive(t.id);
  visit_guest(archive, t.guest);
  archive(t.max_requests);
  archive(t.memory_bytes);
  archive(t.kv_bytes_max);
  archive(t.sql_bytes_max);
  archive(t.storage_bytes_max);
}

template <class Archive, class Value>
  requires std::same_as<std::remove_const_t<Value>, RouteSettings>
void visit(Archive& archive, Value& r) {
  archive(r.host);
  archive(r.path);
  archive(r.tenant);
  archive(r.module);
  archive(r.strip_prefix);
}

template <class Archive, class Value>
  requires std::same_as<std::remove_const_t<Value>, BreakerSettings>
void visit(Archive& archive, Value& b) {
  archive(b.failures);
  archive(b.open);
  archive(b.probes);
  archive(b.guest_5xx);
}

template <class Archive, class Value>
  requires std::same_as<std::remove_const_t<Value>, TracingSettings>
void visit(Archive& archive, Value& t) {
  archive(t.enabled);
  archive(t.otlp_endpoint);
  archive(t.service_name);
  archive(t.protocol);
  archive(t.sample_ratio);
}

template <class Archive, class Value>
  requires std::same_as<std::remove_const_t<Value>, Settings>
void visit(Archive& archive, Value& s) {
  archive(s.config_file);
  archive(s.project_name);
  archive(s.project_version);
  archive(s.binds);
  archive(s.admin);
  archive(s.workers);
  archive(s.pin_workers);
  archive(s.tls_cert);
  archive(s.tls_key);
  archive(s.tls_ticket_key);
  archive(s.trusted_proxies);
  archive(s.component_path);
  archive(s.component_name);
  archive(s.modules_dir);
  archive(s.user_modules_dir);
  archive(s.static_dir);
  archive(s.compression);
  archive(s.scripts_dir);
  archive(s.root);
  archive(s.routes);
  archive(s.hot_reload);
  archive(s.watch_debounce);
  archive(s.state_dir);
  archive(s.cache_size);
  archive(s.max_cache_bytes);
  archive(s.aot_max_bytes);
  visit_guest(archive, s.guest);
  archive(s.modules);
  archive(s.tenants);
  archive(s.http_private);
  archive(s.http_ca_file);
  archive(s.memory_budget_bytes);
  archive(s.max_concurrent_requests);
  archive(s.queue);
  archive(s.adaptive_limit);
  archive(s.max_connections);
  archive(s.max_body_bytes);
  archive(s.max_header_bytes);
  archive(s.header_timeout);
  archive(s.idle_timeout);
  archive(s.body_timeout);
  archive(s.stream_idle);
  archive(s.stream_max);
  archive(s.shutdown_timeout);
  visit(archive, s.breaker);
  archive(s.api_key);
  archive(s.log_format);
  archive(s.log_level);
  archive(s.log_filter);
  archive(s.log_stdout);
  archive(s.log_file);
  archive(s.log_max_bytes);
  archive(s.log_max_files);
  archive(s.guest_logging);
  visit(archive, s.tracing);
}

// The one of this name in a list that is sorted by names; null: there is none.
template <class T>
const T* find_sorted(const std::vector<T>& sorted, std::string_view name,
                     std::string T::* member) noexcept {
  const auto found = std::ranges::lower_bound(sorted, name, std::less<>(), member);
  return found != sorted.end() && (*found).*member == name ? &*found : nullptr;
}

}  // namespace

std::string serialize(const Settings& settings) {
  std::string out;
  Writer writer(out);
  writer(kMagic);
  visit(writer, settings);
  return out;
}

base::Result<Settings> deserialize(std::string_view bytes) {
  Reader reader(bytes);
  std::uint32_t magic = 0;
  reader(magic);
  Settings settings;
  if (magic == kMagic) {
    visit(reader, settings);
  }
  if (magic != kMagic || !reader.ok()) {
    return base::Error(base::ErrorCode::kInternal, "settings of another version of mik");
  }
  return settings;
}

const TenantSettings* tenant_settings(const Settings& settings, std::string_view tenant) noexcept {
  return find_sorted(settings.tenants, tenant, &TenantSettings::id);
}

const GuestSettings& guest_settings(const Settings& settings, std::string_view tenant,
                                    std::string_view module) noexcept {
  if (!tenant.empty()) {
    const TenantSettings* const section = tenant_settings(settings, tenant);
    return section != nullptr ? section->guest : settings.guest;
  }
  const ModuleSettings* const section =
      find_sorted(settings.modules, module, &ModuleSettings::name);
  return section != nullptr ? section->guest : settings.guest;
}

}  // namespace mik::config

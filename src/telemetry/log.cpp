#include "telemetry/log.hpp"

#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <ctime>
#include <utility>

namespace mik::telemetry {

namespace {

static_assert(kLineMax <= PIPE_BUF);

constexpr std::array<std::string_view, 5> kNames = {"ERROR", "WARN", "INFO", "DEBUG", "TRACE"};

// Texts leave so much of a line to numbers and to its end.
constexpr std::size_t kForNumbers = 512;
constexpr std::size_t kTextMin = 16;      // a value that must be cut to less is left out
constexpr std::size_t kServiceMax = 128;  // service.name, service.version

void append_number(std::string& out, std::int64_t value) {
  std::array<char, 24> text;
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value);
  out.append(text.data(), end);
}

// In text lines a value is quoted when it could be taken for several.
bool needs_quotes(std::string_view value) noexcept {
  return value.empty() || !is_plain(value) || value.find_first_of(" =") != std::string_view::npos;
}

}  // namespace

LogOptions log_options(const config::Settings& settings, Writing writing, int worker) {
  LogOptions options;
  options.fd = settings.log_stdout ? STDOUT_FILENO : -1;
  if (!settings.log_file.empty()) {
    options.file.emplace();
    options.file->path = settings.log_file;
    options.file->bytes_max = settings.log_max_bytes;
    options.file->rotated_max = settings.log_max_files;
    if (writing == Writing::kDirect) {
      options.file->lock_patience = std::chrono::milliseconds(3);
    }
  }
  options.filter = LogFilter::of(settings);
  options.format = settings.log_format;
  options.writing = writing;
  options.service_name = settings.tracing.service_name;
  options.service_version = settings.project_version;
  options.worker = worker;
  return options;
}

Log::Log(LogOptions options) : options_(std::move(options)) {
  if (options_.fd >= 0) {
    writers_.push_back(
        make_log_writer(sink_of(options_.fd), options_.writing, options_.pending_bytes_max));
  }
  if (options_.file.has_value()) {
    writers_.push_back(make_log_writer(std::make_unique<LogFile>(*options_.file), options_.writing,
                                       options_.pending_bytes_max));
  }
  append_common();
}

Log::Log(int fd, LogFilter filter, Format format, Writing writing, std::size_t pending_bytes_max)
    : Log(LogOptions{.fd = fd,
                     .file = {},
                     .filter = filter,
                     .format = format,
                     .writing = writing,
                     .pending_bytes_max = pending_bytes_max,
                     .service_name = {},
                     .service_version = {}}) {}

Log::~Log() { flush(); }

void Log::append_common() {
  if (options_.format == Format::kText) {
    if (options_.worker >= 0) {
      common_ = " worker=" + std::to_string(options_.worker);
    }
    return;
  }
  const auto add = [this](std::string_view key, std::string_view value) {
    if (!value.empty()) {
      common_ += key;
      append_json_escaped(common_, value, kServiceMax);
      common_ += '"';
    }
  };
  add(R"(,"service.name":")", options_.service_name);
  add(R"(,"service.version":")", options_.service_version);
  if (options_.worker >= 0) {
    common_ += R"(,"worker":)" + std::to_string(options_.worker);
  }
}

void Log::append_time() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  if (now.tv_sec != second_) {
    second_ = now.tv_sec;
    tm utc{};
    ::gmtime_r(&now.tv_sec, &utc);
    std::array<char, 32> text;
    const std::size_t n = std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%S.", &utc);
    second_text_.assign(text.data(), n);
  }
  buffer_ += second_text_;
  const long micros = now.tv_nsec / 1000;
  for (long divisor = 100000; divisor > 0; divisor /= 10) {
    buffer_ += static_cast<char>('0' + micros / divisor % 10);
  }
  buffer_ += 'Z';
}

Log::Line Log::line(Level level, Target target, std::string_view message) {
  if (!enabled(level, target)) {
    return {nullptr, 0};
  }
  const std::size_t start = buffer_.size();
  const std::string_view level_name = kNames[static_cast<std::size_t>(level)];
  if (options_.format == Format::kJson) {
    buffer_ += R"({"timestamp":")";
    append_time();
    buffer_ += R"(","level":")";
    buffer_ += level_name;
    buffer_ += R"(","target":")";
    buffer_ += name(target);
    buffer_ += R"(","message":")";
    append_json_escaped(buffer_, message, kValueMax);
    buffer_ += '"';
  } else {
    append_time();
    buffer_ += ' ';
    buffer_ += level_name;
    buffer_ += ' ';
    buffer_ += name(target);
    buffer_ += ' ';
    append_visible(buffer_, message, kValueMax);
  }
  return {this, start};
}

Log::Line::Line(Line&& other) noexcept
    : log_(std::exchange(other.log_, nullptr)), start_(other.start_) {}

Log::Line::~Line() {
  if (log_ != nullptr) {
    log_->finish(start_);
  }
}

bool Log::Line::begin(std::string_view key, std::size_t bytes_max) {
  if (log_ == nullptr) {
    return false;
  }
  std::string& out = log_->buffer_;
  const bool json = log_->options_.format == Format::kJson;
  const std::size_t used = out.size() - start_ + log_->common_.size() + key.size() + 8;
  if (used + bytes_max > kLineMax) {
    return false;
  }
  out += json ? ",\"" : " ";
  out += key;
  out += json ? "\":" : "=";
  return true;
}

Log::Line& Log::Line::str(std::string_view key, std::string_view value) {
  const std::size_t least = std::min(value.size(), kTextMin) + kForNumbers;
  if (!begin(key, least)) {
    return *this;
  }
  std::string& out = log_->buffer_;
  const bool quotes = log_->options_.format == Format::kJson || needs_quotes(value);
  const std::size_t used = out.size() - start_ + log_->common_.size() + kForNumbers + 2;
  if (quotes) {
    out += '"';
  }
  append_json_escaped(out, value, std::min(kValueMax, kLineMax - std::min(kLineMax, used)));
  if (quotes) {
    out += '"';
  }
  return *this;
}

Log::Line& Log::Line::num(std::string_view key, std::int64_t value) {
  if (begin(key, 24)) {
    append_number(log_->buffer_, value);
  }
  return *this;
}

Log::Line& Log::Line::ms(std::string_view key, base::Duration value) {
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(value).count();
  if (begin(key, 28)) {
    std::string& out = log_->buffer_;
    append_number(out, us / 1000);
    out += '.';
    out += static_cast<char>('0' + us / 100 % 10);
    out += static_cast<char>('0' + us / 10 % 10);
    out += static_cast<char>('0' + us % 10);
  }
  return *this;
}

void Log::finish(std::size_t start) {
  buffer_ += common_;
  buffer_ += options_.format == Format::kJson ? "}\n" : "\n";
  if (buffer_.size() > options_.pending_bytes_max) {
    buffer_.resize(start);
    ++dropped_;
  }
}

void Log::flush() {
  if (buffer_.empty() && options_.writing == Writing::kThread) {
    return;
  }
  bool room = true;
  for (const auto& writer : writers_) {
    room = writer->offer(buffer_) && room;
  }
  buffer_.clear();
  say_what_happened(room);
}

// Once it is over, where it can be read.
void Log::say_what_happened(bool room) {
  bool failing = false;
  int trouble = 0;
  for (const auto& writer : writers_) {
    failing = failing || writer->failing();
    trouble = std::max(trouble, writer->take_trouble());
  }
  const std::uint64_t all = dropped();
  if (room && !failing && all != dropped_said_) {
    const auto count = static_cast<std::int64_t>(all - std::exchange(dropped_said_, all));
    line(Level::kWarn, "Log lines were dropped: the log's reader is too slow, or its disk full")
        .num("lines", count);
  }
  if (trouble != 0) {
    line(Level::kError, "The log file cannot be rotated").str("error", ::strerrordesc_np(trouble));
  }
}

std::uint64_t Log::dropped() const noexcept {
  std::uint64_t all = dropped_;
  for (const auto& writer : writers_) {
    all += writer->dropped();
  }
  return all;
}

void Log::reopen() {
  for (const auto& writer : writers_) {
    writer->reopen();
  }
}

}  // namespace mik::telemetry

#include "telemetry/log.hpp"

#include <limits.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <condition_variable>
#include <csignal>
#include <ctime>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

namespace mik::telemetry {

namespace {

constexpr std::array<std::string_view, 5> kNames = {"ERROR", "WARN", "INFO", "DEBUG", "TRACE"};

std::optional<Level> parse_level(std::string_view text) noexcept {
  std::string lower;
  for (const char c : text) {
    lower += static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  }
  constexpr std::array<std::pair<std::string_view, Level>, 6> kLevels = {{{"error", Level::kError},
                                                                          {"warn", Level::kWarn},
                                                                          {"info", Level::kInfo},
                                                                          {"debug", Level::kDebug},
                                                                          {"trace", Level::kTrace},
                                                                          {"off", Level::kOff}}};
  for (const auto& [name, level] : kLevels) {
    if (lower == name) {
      return level;
    }
  }
  return std::nullopt;
}

// Length of the well-formed UTF-8 sequence at the front, 0 if there is none (RFC 3629 section 4).
std::size_t utf8_length(std::string_view text) noexcept {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const auto in = [&](std::size_t i, unsigned low, unsigned high) {
    return i < text.size() && byte(i) >= low && byte(i) <= high;
  };
  const unsigned first = byte(0);
  if (first < 0x80) {
    return 1;
  }
  if (first >= 0xC2 && first <= 0xDF) {
    return in(1, 0x80, 0xBF) ? 2 : 0;
  }
  if (first >= 0xE0 && first <= 0xEF) {
    const unsigned low = first == 0xE0 ? 0xA0 : 0x80;
    const unsigned high = first == 0xED ? 0x9F : 0xBF;
    return in(1, low, high) && in(2, 0x80, 0xBF) ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const unsigned low = first == 0xF0 ? 0x90 : 0x80;
    const unsigned high = first == 0xF4 ? 0x8F : 0xBF;
    return in(1, low, high) && in(2, 0x80, 0xBF) && in(3, 0x80, 0xBF) ? 4 : 0;
  }
  return 0;
}

bool plain(char c) noexcept {
  const auto byte = static_cast<unsigned char>(c);
  return byte >= 0x20 && byte < 0x7F && c != '"' && c != '\\';
}

void append_number(std::string& out, std::int64_t value) {
  std::array<char, 24> text;
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value);
  out.append(text.data(), end);
}

// Writes without waiting for a reader. The descriptor is shared with who started us, so it stays
// blocking.
class Sink {
 public:
  explicit Sink(int fd) noexcept : fd_(fd) {
    struct stat info{};
    file_ = ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  }

  // How much was taken. 0: no room now. -1: the reader is gone.
  ssize_t write_some(std::string_view bytes) noexcept {
    ssize_t n = 0;
    if (file_) {
      n = ::write(fd_, bytes.data(), bytes.size());
    } else {
      // Whole lines of up to PIPE_BUF bytes: they come out whole however many workers write, and
      // where RWF_NOWAIT is unknown such a write does not wait once poll has seen room.
      std::string_view piece = bytes.substr(0, PIPE_BUF);
      if (piece.size() < bytes.size()) {
        const std::size_t end = piece.rfind('\n');
        piece = piece.substr(0, end == std::string_view::npos ? piece.size() : end + 1);
      }
      n = write_piece(piece);
    }
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
      return 0;
    }
    return n == 0 ? -1 : n;
  }

  void wait(int timeout_ms) const noexcept {
    pollfd poll_fd{fd_, POLLOUT, 0};
    if (::poll(&poll_fd, 1, timeout_ms) > 0) {
      // Room by poll and yet none: others of the family take it.
      const timespec pause{0, 1'000'000};
      // lint: allow sleep: the writer's own thread
      ::clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, nullptr);
    }
  }

 private:
  ssize_t write_piece(std::string_view piece) noexcept {
    if (nowait_) {
      iovec vector{const_cast<char*>(piece.data()),
                   piece.size()};  // writev's type; it changes nothing
      const ssize_t n = ::pwritev2(fd_, &vector, 1, -1, RWF_NOWAIT);
      if (n >= 0 || (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL)) {
        return n;
      }
      nowait_ = false;  // terminals, sockets, pipes of older kernels
    }
    pollfd poll_fd{fd_, POLLOUT, 0};
    if (::poll(&poll_fd, 1, 0) <= 0) {
      errno = EAGAIN;
      return -1;
    }
    return ::write(fd_, piece.data(), piece.size());
  }

  int fd_;
  bool file_ = false;
  bool nowait_ = true;
};

// In text lines a value is quoted when it could be taken for several.
bool needs_quotes(std::string_view value) noexcept {
  for (const char c : value) {
    if (!plain(c) || c == ' ' || c == '=') {
      return true;
    }
  }
  return value.empty();
}

}  // namespace

Level parse_rust_log(std::string_view text, bool& bad) noexcept {
  std::optional<Level> bare;
  std::optional<Level> own;
  bool understood = text.empty();
  while (!text.empty()) {
    const std::size_t comma = text.find(',');
    std::string_view directive = text.substr(0, comma);
    text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
    const std::size_t equals = directive.find('=');
    const std::string_view level_text =
        equals == std::string_view::npos ? directive : directive.substr(equals + 1);
    const auto level = parse_level(level_text);
    if (!level.has_value()) {
      continue;
    }
    understood = true;
    if (equals == std::string_view::npos) {
      bare = level;
    } else if (directive.substr(0, equals) == "mik") {
      own = level;
    }
  }
  bad = !understood;
  return own.value_or(bare.value_or(Level::kInfo));
}

void append_json_escaped(std::string& out, std::string_view text) {
  constexpr std::string_view kHex = "0123456789abcdef";
  while (!text.empty()) {
    std::size_t run = 0;
    while (run < text.size() && plain(text[run])) {
      ++run;
    }
    out.append(text.substr(0, run));
    text.remove_prefix(run);
    if (text.empty()) {
      return;
    }
    const char c = text.front();
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
      text.remove_prefix(1);
    } else if (byte < 0x20 || byte == 0x7F) {
      out += "\\u00";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
      text.remove_prefix(1);
    } else if (const std::size_t length = utf8_length(text); length != 0) {
      out.append(text.substr(0, length));
      text.remove_prefix(length);
    } else {
      out += "\xEF\xBF\xBD";
      text.remove_prefix(1);
    }
  }
}

// Owns the thread that writes.
struct Log::Writer {
  Writer(int fd, std::size_t max) : sink(fd), bytes_max(max), thread([this] { run(); }) {}

  ~Writer() {
    {
      const std::scoped_lock lock(mutex);
      stopping = true;
    }
    ready.notify_one();
    thread.join();
  }

  bool offer(std::string& bytes) {
    {
      const std::scoped_lock lock(mutex);
      if (queue.size() + bytes.size() > bytes_max) {
        return false;
      }
      queue += bytes;
    }
    bytes.clear();
    ready.notify_one();
    return true;
  }

  void run() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    std::string block;
    std::unique_lock lock(mutex);
    while (true) {
      ready.wait(lock, [this] { return stopping || !queue.empty(); });
      if (queue.empty()) {
        return;
      }
      block.clear();
      block.swap(queue);
      lock.unlock();
      write_all(block);
      lock.lock();
    }
  }

  void write_all(std::string_view bytes) {
    base::Time give_up = base::kNever;  // once the end has come
    while (!bytes.empty()) {
      const ssize_t n = sink.write_some(bytes);
      if (n < 0) {
        return;  // there is nobody to tell
      }
      if (n > 0) {
        bytes.remove_prefix(static_cast<std::size_t>(n));
        continue;
      }
      sink.wait(kStepMs);
      const std::scoped_lock lock(mutex);
      if (stopping && give_up == base::kNever) {
        give_up = base::Clock::now() + kPatience;
      } else if (stopping && base::Clock::now() >= give_up) {
        return;
      }
    }
  }

  static constexpr int kStepMs = 100;
  // At the end a reader that does not read is waited for so long, not for ever.
  static constexpr base::Duration kPatience = std::chrono::seconds(1);

  Sink sink;  // the thread's
  const std::size_t bytes_max;
  std::mutex mutex;
  std::condition_variable ready;
  std::string queue;      // guarded by mutex
  bool stopping = false;  // guarded by mutex
  std::thread thread;     // last: it uses all of the above
};

Log::Log(int fd, Level level, Format format, Writing writing, std::size_t pending_bytes_max)
    : fd_(fd),
      level_(level),
      format_(format),
      pending_bytes_max_(pending_bytes_max),
      writer_(writing == Writing::kThread ? std::make_unique<Writer>(fd, pending_bytes_max)
                                          : nullptr) {}

Log::~Log() { flush(); }

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

Log::Line Log::line(Level level, std::string_view message) {
  if (!enabled(level)) {
    return Line(nullptr, 0);
  }
  const std::size_t start = buffer_.size();
  const std::string_view name = kNames[static_cast<std::size_t>(level)];
  if (format_ == Format::kJson) {
    buffer_ += R"({"timestamp":")";
    append_time();
    buffer_ += R"(","level":")";
    buffer_ += name;
    buffer_ += R"(","message":")";
    append_json_escaped(buffer_, message);
    buffer_ += '"';
  } else {
    append_time();
    buffer_ += ' ';
    buffer_ += name;
    buffer_ += ' ';
    buffer_ += message;
  }
  return Line(this, start);
}

Log::Line::Line(Line&& other) noexcept
    : log_(std::exchange(other.log_, nullptr)), start_(other.start_) {}

Log::Line::~Line() {
  if (log_ != nullptr) {
    log_->finish(start_);
  }
}

Log::Line& Log::Line::str(std::string_view key, std::string_view value) {
  if (log_ == nullptr) {
    return *this;
  }
  std::string& out = log_->buffer_;
  const bool json = log_->format_ == Format::kJson;
  out += json ? ",\"" : " ";
  out += key;
  out += json ? "\":" : "=";
  const bool quotes = json || needs_quotes(value);
  if (quotes) {
    out += '"';
  }
  append_json_escaped(out, value);
  if (quotes) {
    out += '"';
  }
  return *this;
}

Log::Line& Log::Line::num(std::string_view key, std::int64_t value) {
  if (log_ == nullptr) {
    return *this;
  }
  std::string& out = log_->buffer_;
  const bool json = log_->format_ == Format::kJson;
  out += json ? ",\"" : " ";
  out += key;
  out += json ? "\":" : "=";
  append_number(out, value);
  return *this;
}

Log::Line& Log::Line::ms(std::string_view key, base::Duration value) {
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(value).count();
  num(key, us / 1000);
  if (log_ != nullptr) {
    std::string& out = log_->buffer_;
    out += '.';
    out += static_cast<char>('0' + us / 100 % 10);
    out += static_cast<char>('0' + us / 10 % 10);
    out += static_cast<char>('0' + us % 10);
  }
  return *this;
}

void Log::finish(std::size_t start) {
  buffer_ += format_ == Format::kJson ? "}\n" : "\n";
  if (buffer_.size() > pending_bytes_max_) {
    buffer_.resize(start);
    ++dropped_;
  }
}

// Whoever writes has one thread, and better things to do than to wait for a reader of its log.
void Log::write_directly() {
  Sink sink(fd_);
  std::size_t done = 0;
  while (done < buffer_.size()) {
    const ssize_t n = sink.write_some(std::string_view(buffer_).substr(done));
    if (n == 0) {
      break;  // the rest goes out with the next line, if there is room then
    }
    if (n < 0) {
      done = buffer_.size();
      break;
    }
    done += static_cast<std::size_t>(n);
  }
  buffer_.erase(0, done);
}

void Log::flush() {
  if (buffer_.empty()) {
    return;
  }
  if (writer_ == nullptr) {
    write_directly();
    return;
  }
  if (!writer_->offer(buffer_)) {
    return;  // stays until there is room, or until finish() drops the newest
  }
  if (dropped_ != dropped_said_) {
    const auto count = static_cast<std::int64_t>(dropped_ - dropped_said_);
    dropped_said_ = dropped_;
    line(Level::kWarn, "log lines were dropped: the reader of the log is too slow")
        .num("lines", count);
  }
}

}  // namespace mik::telemetry

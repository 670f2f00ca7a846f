#include "files/file_exchange.hpp"

#include <linux/magic.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace mik::files {

namespace {

constexpr std::size_t kPiece = 128 * 1024;
constexpr std::size_t kPieceOfMany = 16 * 1024;
constexpr std::size_t kPieceOfVeryMany = 4 * 1024;
// From here on there are many, and very many.
constexpr std::size_t kMany = std::size_t{16} << 20;
constexpr std::size_t kVeryMany = std::size_t{64} << 20;
// A client that takes all at once leaves the loop to others after so much.
constexpr std::size_t kTurnMax = 512 * 1024;

// Memory is never waited for, but such files do not know RWF_NOWAIT.
bool in_memory(int fd) noexcept {
  struct statfs info{};
  return ::fstatfs(fd, &info) == 0 && info.f_type == TMPFS_MAGIC;
}

}  // namespace

ssize_t read_piece(int fd, char* to, std::size_t bytes, std::uint64_t offset, Wait wait) noexcept {
  iovec piece{.iov_base = to, .iov_len = bytes};
  int flags = wait == Wait::kNever ? RWF_NOWAIT : 0;
  while (true) {
    const ssize_t got = ::preadv2(fd, &piece, 1, static_cast<off_t>(offset), flags);
    if (got >= 0) {
      return got;
    }
    const int error = errno;
    if (error == EOPNOTSUPP && flags != 0 && in_memory(fd)) {
      flags = 0;
    } else if (error != EINTR) {
      return -error;
    }
  }
}

std::size_t FileBytes::piece() const noexcept {
  if (held_ < kMany) {
    return kPiece;
  }
  return held_ < kVeryMany ? kPieceOfMany : kPieceOfVeryMany;
}

// What the pool reads.
struct FileExchange::Piece {
  std::shared_ptr<Found> file;
  std::uint64_t offset = 0;
  std::string bytes;
  ssize_t got = 0;
};

void FileExchange::attach(http::Exchange& exchange, std::unique_ptr<StaticEnd> end) {
  end_ = std::move(end);
  self_ = shared_from_this();
  exchange_ = &exchange;
  exchange.attach(*this);
  exchange.discard_body();
}

void FileExchange::set_content(Found file, std::uint64_t first, std::uint64_t bytes) {
  file_ = std::make_shared<Found>(std::move(file));
  offset_ = first;
  left_ = bytes;
}

http::Flow FileExchange::on_body(std::string_view /*bytes*/) { return http::Flow::kGoOn; }
void FileExchange::on_body_end(std::span<const http::Field> /*trailers*/) {}
// What a client sends with a GET changes nothing; a client that is gone is told by on_closed.
void FileExchange::on_body_error(http::BodyError error) {
  if (error == http::BodyError::kGone && exchange_ != nullptr) {
    exchange_->abort();
  }
}

std::size_t FileExchange::peek(std::span<iovec> pieces) {
  if (shown_ == buffer_.size() && left_ > 0 && !reading_ && !broken_) {
    load();
  }
  if (shown_ == buffer_.size()) {
    return 0;
  }
  pieces[0] = {.iov_base = buffer_.data() + shown_, .iov_len = buffer_.size() - shown_};
  return 1;
}

void FileExchange::consume(std::size_t bytes) {
  shown_ += bytes;
  if (shown_ < buffer_.size() || left_ == 0) {
    return;
  }
  if (const base::Time now = loop_.now(); now != std::exchange(turn_, now)) {
    in_this_turn_ = 0;
  }
  in_this_turn_ += buffer_.size();
  if (in_this_turn_ < kTurnMax) {
    exchange_->pump();
    return;
  }
  loop_.post([weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self != nullptr && self->exchange_ != nullptr) {
      self->in_this_turn_ = 0;
      self->exchange_->pump();
    }
  });
}

http::SourceState FileExchange::source_state() {
  if (broken_) {
    return http::SourceState::kCut;
  }
  return left_ == 0 && file_ != nullptr ? http::SourceState::kEnd : http::SourceState::kOpen;
}

void FileExchange::load() {
  hold(0);
  const std::size_t bytes = std::min<std::uint64_t>(left_, all_->piece());
  hold(bytes);
  if (buffer_.capacity() > 2 * bytes) {
    buffer_ = std::string();
  }
  buffer_.resize(bytes);
  const ssize_t got = read_piece(file_->fd.get(), buffer_.data(), bytes, offset_, Wait::kNever);
  if (got == -EAGAIN || got == -EOPNOTSUPP) {
    load_by_pool(bytes);
    return;
  }
  std::string now = std::move(buffer_);
  take(now, got);
}

void FileExchange::load_by_pool(std::size_t bytes) {
  const auto piece = std::make_shared<Piece>();
  piece->file = file_;
  piece->offset = offset_;
  piece->bytes = std::move(buffer_);
  piece->bytes.resize(bytes);
  buffer_.clear();
  shown_ = 0;
  reading_ = offload_.submit(
      [piece] {
        piece->got = read_piece(piece->file->fd.get(), piece->bytes.data(), piece->bytes.size(),
                                piece->offset, Wait::kMay);
      },
      [weak = weak_from_this(), piece] {
        const auto self = weak.lock();
        if (self == nullptr || self->exchange_ == nullptr) {
          return;
        }
        self->reading_ = false;
        self->take(piece->bytes, piece->got);
        self->exchange_->pump();
      });
  broken_ = !reading_;
}

// A file that has become another one meanwhile is cut, never mixed: its length and its tag are out.
void FileExchange::take(std::string& bytes, ssize_t got) {
  shown_ = 0;
  buffer_.clear();
  struct stat info{};
  if (got <= 0 || ::fstat(file_->fd.get(), &info) != 0 || !same_content(info, file_->info)) {
    broken_ = true;
    return;
  }
  buffer_ = std::move(bytes);
  buffer_.resize(static_cast<std::size_t>(got));
  offset_ += static_cast<std::uint64_t>(got);
  left_ -= static_cast<std::uint64_t>(got);
}

void FileExchange::on_closed(const http::Closed& closed) {
  exchange_ = nullptr;
  end_->on_end(closed);
  const std::shared_ptr<FileExchange> self = std::move(self_);  // its end, unless a task holds it
}

}  // namespace mik::files

// One request for a file that takes more than a moment: it is looked up by the pool, or its content
// is sent piece by piece. Owns itself until the exchange is closed. Internal to src/files; confined
// to the loop thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "files/lookup.hpp"
#include "files/static_files.hpp"
#include "http/exchange.hpp"
#include "net/loop.hpp"
#include "net/offload.hpp"

namespace mik::files {

// 0: nothing was there. < 0: an errno. May block with Wait::kMay.
ssize_t read_piece(int fd, char* to, std::size_t bytes, std::uint64_t offset, Wait wait) noexcept;

// What all responses of a worker hold of files: clients that take nothing, or one stream after the
// other on HTTP/2, hold little each once they are many.
class FileBytes {
 public:
  // What the next response may read at once.
  std::size_t piece() const noexcept;
  void change(std::size_t from, std::size_t to) noexcept { held_ = held_ - from + to; }
  std::size_t held() const noexcept { return held_; }

 private:
  std::size_t held_ = 0;
};

class FileExchange final : public http::ExchangeHandler,
                           public std::enable_shared_from_this<FileExchange> {
 public:
  FileExchange(net::Loop& loop, net::Offload& offload, std::shared_ptr<FileBytes> bytes)
      : loop_(loop), offload_(offload), all_(std::move(bytes)) {}
  ~FileExchange() override { hold(0); }
  FileExchange(const FileExchange&) = delete;
  FileExchange& operator=(const FileExchange&) = delete;

  // Attaches it. From now on it lives as long as the exchange, and tells `end` of that one's.
  void attach(http::Exchange& exchange, std::unique_ptr<StaticEnd> end);
  // Null: it is closed.
  http::Exchange* exchange() const noexcept { return exchange_; }
  // What is sent from the next pump on.
  void set_content(Found file, std::uint64_t first, std::uint64_t bytes);

  http::Flow on_body(std::string_view bytes) override;
  void on_body_end(std::span<const http::Field> trailers) override;
  void on_body_error(http::BodyError error) override;
  std::size_t peek(std::span<iovec> pieces) override;
  void consume(std::size_t bytes) override;
  http::SourceState source_state() override;
  std::span<const http::Field> trailers() override { return {}; }
  void on_closed(const http::Closed& closed) override;

 private:
  struct Piece;

  void load();
  void load_by_pool(std::size_t bytes);
  void take(std::string& bytes, ssize_t got);
  void hold(std::size_t bytes) noexcept {
    all_->change(held_, bytes);
    held_ = bytes;
  }

  net::Loop& loop_;
  net::Offload& offload_;
  std::shared_ptr<FileBytes> all_;
  std::size_t held_ = 0;  // of all_
  http::Exchange* exchange_ = nullptr;
  std::unique_ptr<StaticEnd> end_;
  std::shared_ptr<FileExchange> self_;
  std::shared_ptr<Found> file_;  // the pool may read it when the client has left
  std::uint64_t offset_ = 0;
  std::uint64_t left_ = 0;  // not read yet
  std::string buffer_;
  std::size_t shown_ = 0;         // of buffer_, consumed
  std::size_t in_this_turn_ = 0;  // bytes
  base::Time turn_;
  bool reading_ = false;  // by the pool
  bool broken_ = false;   // the file changed under our hands, or the disk failed
};

}  // namespace mik::files

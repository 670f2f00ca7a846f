#include "files/static_files.hpp"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "files/file_exchange.hpp"
#include "http/conditional.hpp"
#include "http/date_cache.hpp"
#include "http/range.hpp"

namespace mik::files {

namespace {

using http::Coding;
using http::Field;
using What = Found::What;

// Read and sent in one go, where the kernel has them in memory.
constexpr std::size_t kAtOnceMax = 64 * 1024;
constexpr base::Duration kFolderFor = std::chrono::seconds(1);
constexpr base::Duration kAbsentFor = std::chrono::seconds(1);
constexpr std::size_t kAbsentMax = 4096;
constexpr std::string_view kPrefix = "/static/";
constexpr std::string_view kProblemType = "application/problem+json";
constexpr std::string_view kAllow = "GET, HEAD, OPTIONS";
constexpr std::string_view kCacheControl = "public, max-age=3600";

std::int64_t wall_clock() noexcept {
  std::timespec now{};
  ::clock_gettime(CLOCK_REALTIME_COARSE, &now);
  return now.tv_sec;
}

unsigned bit(Coding coding) noexcept { return 1u << static_cast<unsigned>(coding); }

// "Tue, 15 Nov 1994 08:12:31 GMT"
std::string http_date(std::int64_t seconds) {
  constexpr std::size_t kBefore = 6;  // "Date: "
  constexpr std::size_t kBytes = 29;
  std::array<char, 40> buffer{};
  return std::string(http::DateCache::render(seconds, buffer).substr(kBefore, kBytes));
}

}  // namespace

// A request as it is answered: now by views, or later by copies of what they show.
struct StaticFiles::Ask {
  bool get = false;
  bool head = false;
  FilePath file;
  std::string_view query;  // with its '?'
  std::span<const Field> fields;
  std::span<const Field> answer_fields;
  std::vector<Coding> siblings;
  http::Compression::Wanted wanted;       // of what is compressed on the way
  std::shared_ptr<FileExchange> waiting;  // is attached already, and is told of the end
  StaticEnd* end = nullptr;               // without it: of the request that is served now

  // Of copies.
  std::vector<std::string> texts;
  std::vector<Field> own_fields;
  std::vector<Field> own_answer_fields;

  // Whose views live as long as it.
  std::unique_ptr<Ask> keep() const {
    auto kept = std::make_unique<Ask>(*this);
    kept->end = nullptr;
    kept->texts.clear();
    kept->texts.reserve(1 + 2 * (fields.size() + answer_fields.size()));
    const auto copy = [&](std::string_view text) -> std::string_view {
      return kept->texts.emplace_back(text);
    };
    kept->query = copy(query);
    const auto copy_all = [&](std::span<const Field> from, std::vector<Field>& to) {
      to.clear();
      for (const Field& field : from) {
        const std::string_view name = copy(field.name);
        to.push_back({name, copy(field.value)});
      }
    };
    copy_all(fields, kept->own_fields);
    copy_all(answer_fields, kept->own_answer_fields);
    kept->fields = kept->own_fields;
    kept->answer_fields = kept->own_answer_fields;
    return kept;
  }
};

StaticFiles::StaticFiles(std::string folder, net::Loop& loop, net::Offload& offload,
                         http::Compression& compression, StaticObserver& observer)
    : path_(std::move(folder)),
      loop_(loop),
      offload_(offload),
      bytes_(std::make_shared<FileBytes>()),
      compression_(compression),
      observer_(observer),
      folder_(std::make_shared<base::Fd>()) {}

StaticFiles::~StaticFiles() = default;

const std::shared_ptr<base::Fd>& StaticFiles::folder() {
  if (const base::Time now = loop_.now(); !folder_->valid() || now - folder_opened_ >= kFolderFor) {
    folder_opened_ = now;
    base::Fd opened(::open(path_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    folder_ = std::make_shared<base::Fd>(std::move(opened));
  }
  return folder_;
}

// What the client takes, best first; of equals the smallest result, since the work is done.
std::vector<Coding> StaticFiles::siblings_to_try(const std::string& path,
                                                 std::span<const Field> fields) const {
  std::vector<Coding> order;
  const http::AcceptedCodings accepted = http::accepted_codings(fields);
  if (!accepted.any()) {
    return order;
  }
  const auto known = absent_.find(path);
  const unsigned absent = known != absent_.end() && loop_.now() - known->second.seen < kAbsentFor
                              ? known->second.codings
                              : 0;
  std::vector<Coding> left = {Coding::kBrotli, Coding::kZstd, Coding::kGzip};
  std::erase_if(left, [&](Coding coding) { return (absent & bit(coding)) != 0; });
  while (!left.empty()) {
    const Coding best = http::best_coding(accepted, left);
    if (best == Coding::kIdentity) {
      break;
    }
    order.push_back(best);
    std::erase(left, best);
  }
  return order;
}

void StaticFiles::note_absent_siblings(const Ask& ask, const Found& found) {
  if (found.what != What::kFile || ask.siblings.empty()) {
    return;
  }
  unsigned missing = 0;
  for (const Coding coding : ask.siblings) {
    if (coding == found.coding) {
      break;
    }
    missing |= bit(coding);
  }
  if (missing == 0) {
    return;
  }
  if (absent_.size() >= kAbsentMax) {
    absent_.clear();
  }
  Absent& absent = absent_[ask.file.path];
  if (const base::Time now = loop_.now(); now - absent.seen >= kAbsentFor) {
    absent = {now, 0};
  }
  absent.codings |= missing;
}

void StaticFiles::serve(http::Exchange& exchange, const StaticRequest& request) {
  Ask ask;
  ask.get = request.method == "GET";
  ask.head = request.method == "HEAD";
  ask.fields = request.fields;
  ask.answer_fields = request.answer_fields;
  ask.end = request.end;
  const std::size_t mark = request.path_query.find('?');
  ask.query = mark == std::string_view::npos ? std::string_view() : request.path_query.substr(mark);
  if (!ask.get && !ask.head) {
    const std::array<Field, 1> allow = {Field{"Allow", kAllow}};
    if (request.method != "OPTIONS") {
      problem(exchange, ask, 405, "a file is read by GET or HEAD", allow);
      return;
    }
    fields_.assign(ask.answer_fields.begin(), ask.answer_fields.end());
    fields_.push_back(allow[0]);
    respond(exchange, ask, 200);
    return;
  }
  switch (parse_path(request.path_query.substr(kPrefix.size(), mark - kPrefix.size()), ask.file)) {
    case PathProblem::kMalformed:
      problem(exchange, ask, 400, "Invalid path");
      return;
    case PathProblem::kAbsent:
      problem(exchange, ask, 404, "File not found");
      return;
    case PathProblem::kNone:
      break;
  }
  ask.wanted = compression_.wanted(ask.fields);
  ask.siblings = siblings_to_try(ask.file.path, ask.fields);
  if (!folder()->valid()) {
    problem(exchange, ask, 404, "File not found");
    return;
  }
  Found found = look_up(folder()->get(), ask.file, ask.siblings, Wait::kNever);
  if (found.what == What::kWouldBlock) {
    look_up_later(exchange, ask);
    return;
  }
  note_absent_siblings(ask, found);
  answer(exchange, ask, std::move(found));
}

void StaticFiles::look_up_later(http::Exchange& exchange, const Ask& ask) {
  struct Job {
    std::shared_ptr<base::Fd> folder;
    std::unique_ptr<Ask> ask;
    Found found;
  };
  const auto job = std::make_shared<Job>();
  job->folder = folder();
  job->ask = ask.keep();
  const auto waiting = std::make_shared<FileExchange>(loop_, offload_, bytes_);
  const bool submitted = offload_.submit(
      [job] {
        job->found = look_up(job->folder->get(), job->ask->file, job->ask->siblings, Wait::kMay);
      },
      [this, job, weak = std::weak_ptr<FileExchange>(waiting)] {
        const auto still = weak.lock();
        if (still == nullptr || still->exchange() == nullptr) {
          return;
        }
        note_absent_siblings(*job->ask, job->found);
        job->ask->waiting = still;
        answer(*still->exchange(), *job->ask, std::move(job->found));
      });
  if (!submitted) {
    const std::array<Field, 1> retry = {Field{"Retry-After", "1"}};
    problem(exchange, ask, 503, "too many files are being read", retry);
    return;
  }
  waiting->attach(exchange, ask.end->keep());
}

void StaticFiles::answer(http::Exchange& exchange, const Ask& ask, Found found) {
  switch (found.what) {
    case What::kFile:
      send_file(exchange, ask, std::move(found));
      return;
    case What::kFolder:
      redirect(exchange, ask);
      return;
    case What::kForbidden:
      observer_.on_static_error(ask.file.path, found.error);
      problem(exchange, ask, 403, "File may not be read");
      return;
    case What::kAbsent:
      problem(exchange, ask, 404, "File not found");
      return;
    case What::kFailed:
    case What::kWouldBlock:
      observer_.on_static_error(ask.file.path, found.error);
      problem(exchange, ask, 500, "Internal server error");
      return;
  }
}

void StaticFiles::send_file(http::Exchange& exchange, const Ask& ask, Found found) {
  const auto size = static_cast<std::uint64_t>(found.info.st_size);
  const std::int64_t now = wall_clock();
  // Never later than the answer itself (RFC 9110 section 8.8.2.1).
  const std::int64_t modified = std::min<std::int64_t>(found.info.st_mtim.tv_sec, now);
  const std::string etag =
      fmt::format("\"{:x}-{:x}-{:x}.{:x}\"", found.info.st_ino, found.info.st_size,
                  found.info.st_mtim.tv_sec, found.info.st_mtim.tv_nsec);
  const std::string date = http_date(modified);
  const http::Validators validators{.etag = etag, .modified = modified};
  const auto condition =
      http::check_preconditions(ask.head ? "HEAD" : "GET", ask.fields, validators, now);
  if (condition == http::Precondition::kFailed) {
    problem(exchange, ask, 412, "the file is not the one that was asked for");
    return;
  }
  http::ByteRange part{.first = 0, .bytes = size};
  http::RangeAnswer range = http::RangeAnswer::kWhole;
  if (ask.get && http::if_range_holds(ask.fields, validators, now)) {
    range = http::wanted_range(ask.fields, size, part);
  }
  fields_.assign(ask.answer_fields.begin(), ask.answer_fields.end());
  fields_.push_back({"ETag", etag});
  fields_.push_back({"Last-Modified", date});
  fields_.push_back({"Cache-Control", kCacheControl});
  fields_.push_back({"Vary", "Accept-Encoding"});
  const std::string_view type = content_type(ask.file.folder ? "index.html" : ask.file.path);
  if (condition == http::Precondition::kNotModified) {
    std::optional<std::uint64_t> length = size;
    if (found.coding == Coding::kIdentity && http::is_compressible_type(type) &&
        size >= http::kCompressFrom) {
      // What the 200 would be is known here, whatever the client has.
      compression_.prepare({.codings = ask.wanted.codings}, 304, fields_, length);
    }
    exchange.respond({.status = 304, .fields = fields_, .content_length = std::nullopt}, {});
    on_answered(ask, 304, 0);
    return;
  }
  const std::string content_range =
      range == http::RangeAnswer::kPart
          ? fmt::format("bytes {}-{}/{}", part.first, part.first + part.bytes - 1, size)
          : fmt::format("bytes */{}", size);
  if (range == http::RangeAnswer::kUnsatisfiable) {
    const std::array<Field, 1> more = {Field{"Content-Range", content_range}};
    problem(exchange, ask, 416, "the file has no such range", more);
    return;
  }
  fields_.push_back({"Content-Type", type});
  fields_.push_back({"Accept-Ranges", "bytes"});
  if (found.coding != Coding::kIdentity) {
    fields_.push_back({"Content-Encoding", http::coding_name(found.coding)});
  }
  if (range == http::RangeAnswer::kPart) {
    fields_.push_back({"Content-Range", content_range});
  }
  const int status = range == http::RangeAnswer::kPart ? 206 : 200;
  send_content(exchange, ask, std::move(found), status, part.first, part.bytes);
}

void StaticFiles::send_content(http::Exchange& exchange, const Ask& ask, Found found, int status,
                               std::uint64_t first, std::uint64_t bytes) {
  if (ask.get && bytes <= kAtOnceMax && read_at_once(found, first, bytes)) {
    on_answered(ask, status, compression_.respond(exchange, ask.wanted, status, fields_, scratch_));
    return;
  }
  std::optional<std::uint64_t> length = bytes;
  const Coding coding = compression_.prepare(ask.wanted, status, fields_, length);
  const http::ResponseHead head{.status = status, .fields = fields_, .content_length = length};
  if (ask.head && length.has_value()) {
    exchange.respond(head, {});
    on_answered(ask, status, 0);
    return;
  }
  std::shared_ptr<FileExchange> file = ask.waiting;
  if (file == nullptr) {
    file = std::make_shared<FileExchange>(loop_, offload_, bytes_);
    file->attach(exchange, ask.end->keep());
  }
  file->set_content(std::move(found), first, ask.head ? 0 : bytes);
  if (ask.get && coding != Coding::kIdentity) {
    compression_.attach(exchange, *file, coding);
  }
  exchange.start(head);
  exchange.pump();
}

bool StaticFiles::read_at_once(const Found& found, std::uint64_t first, std::uint64_t bytes) {
  scratch_.resize(bytes);
  std::size_t have = 0;
  while (have < bytes) {
    const ssize_t got = read_piece(found.fd.get(), scratch_.data() + have, bytes - have,
                                   first + have, Wait::kNever);
    if (got <= 0) {
      return false;
    }
    have += static_cast<std::size_t>(got);
  }
  struct stat info{};
  return ::fstat(found.fd.get(), &info) == 0 && same_content(info, found.info);
}

void StaticFiles::redirect(http::Exchange& exchange, const Ask& ask) {
  const std::string location = folder_url(ask.file.path) + std::string(ask.query);
  fields_.assign(ask.answer_fields.begin(), ask.answer_fields.end());
  fields_.push_back({"Location", location});
  respond(exchange, ask, 301);
}

void StaticFiles::problem(http::Exchange& exchange, const Ask& ask, int status,
                          std::string_view detail, std::span<const Field> more) {
  const std::string_view body = observer_.problem(status, detail);
  fields_.assign(ask.answer_fields.begin(), ask.answer_fields.end());
  fields_.insert(fields_.end(), more.begin(), more.end());
  fields_.push_back({"Content-Type", kProblemType});
  respond(exchange, ask, status, body);
}

void StaticFiles::respond(http::Exchange& exchange, const Ask& ask, int status,
                          std::string_view body) {
  exchange.respond({.status = status, .fields = fields_, .content_length = body.size()}, body);
  on_answered(ask, status, ask.head ? 0 : body.size());
}

// As far as is known of an answer that the connection has taken as a whole.
void StaticFiles::on_answered(const Ask& ask, int status, std::size_t bytes) {
  if (ask.waiting == nullptr) {
    ask.end->on_end({.status = status, .body_bytes_out = bytes});
  }
}

}  // namespace mik::files

#include "shared/control.hpp"

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <type_traits>

#include "shared/wire.hpp"

namespace mik::shared {

namespace {

// Packet: u32 magic, u16 kind, then the fields of the kind in the order of its struct.
constexpr std::uint32_t kMagic = 0x316b'696d;  // "mik1"
constexpr std::size_t kPathMax = 8 * 1024;
constexpr std::size_t kTextMax = 8 * 1024;

// The kind is the place in the variant.
template <class T, std::size_t I = 0>
constexpr std::uint16_t kind_of() {
  if constexpr (std::is_same_v<T, std::variant_alternative_t<I, Message>>) {
    return I;
  } else {
    return kind_of<T, I + 1>();
  }
}

struct FieldWriter {
  WireWriter& out;
  void operator()(const Ready&) const {}
  void operator()(const NeedArtefact& m) const { out.text(m.component, kPathMax); }
  void operator()(const Fatal& m) const {
    out.number(static_cast<std::uint16_t>(m.code));
    out.text(m.text, kTextMax);
    out.text(m.help, kTextMax);
  }
  void operator()(const ArtefactReady& m) const {
    out.text(m.component, kPathMax);
    out.text(m.artefact, kPathMax);
  }
  void operator()(const ArtefactFailed& m) const {
    out.text(m.component, kPathMax);
    out.number(static_cast<std::uint16_t>(m.code));
    out.text(m.text, kTextMax);
    out.text(m.help, kTextMax);
  }
  void operator()(const Drain& m) const { out.number(m.deadline_ns); }
};

std::optional<base::ErrorCode> known_code(std::uint16_t number) {
  switch (static_cast<base::ErrorCode>(number)) {
#define MIK_ERROR_CODE(name, value, text, meaning) case base::ErrorCode::name:
#include "base/error_codes.def"
#undef MIK_ERROR_CODE
    return static_cast<base::ErrorCode>(number);
  }
  return std::nullopt;
}

std::optional<Message> read_fields(std::uint16_t kind, WireReader& in) {
  switch (kind) {
    case kind_of<Ready>():
      return Ready{};
    case kind_of<NeedArtefact>():
      return NeedArtefact{in.text(kPathMax)};
    case kind_of<Fatal>(): {
      Fatal m;
      const auto code = known_code(in.number<std::uint16_t>());
      m.code = code.value_or(base::ErrorCode::kInternal);
      m.text = in.text(kTextMax);
      m.help = in.text(kTextMax);
      return code ? std::optional<Message>(std::move(m)) : std::nullopt;
    }
    case kind_of<ArtefactReady>(): {
      ArtefactReady m;
      m.component = in.text(kPathMax);
      m.artefact = in.text(kPathMax);
      return m;
    }
    case kind_of<ArtefactFailed>(): {
      ArtefactFailed m;
      m.component = in.text(kPathMax);
      const auto code = known_code(in.number<std::uint16_t>());
      m.code = code.value_or(base::ErrorCode::kInternal);
      m.text = in.text(kTextMax);
      m.help = in.text(kTextMax);
      return code ? std::optional<Message>(std::move(m)) : std::nullopt;
    }
    case kind_of<Drain>():
      return Drain{in.number<std::uint64_t>()};
    default:
      return std::nullopt;
  }
}

}  // namespace

std::string encode(const Message& message) {
  WireWriter out;
  out.number(kMagic);
  out.number(static_cast<std::uint16_t>(message.index()));
  std::visit(FieldWriter{out}, message);
  return std::move(out).take();
}

base::Result<Message> decode(std::string_view bytes) {
  WireReader in(bytes);
  const auto magic = in.number<std::uint32_t>();
  const auto kind = in.number<std::uint16_t>();
  if (magic == kMagic) {
    std::optional<Message> message = read_fields(kind, in);
    if (message && in.complete()) {
      return *std::move(message);
    }
  }
  return base::Error(base::ErrorCode::kBadMessage, "a control message that no mik process sends");
}

Fatal to_fatal(const base::Error& error) { return {error.code(), error.to_string(), error.help()}; }

ArtefactFailed to_artefact_failed(std::string component, const base::Error& error) {
  return {std::move(component), error.code(), error.to_string(), error.help()};
}

base::Error to_error(const Fatal& message) {
  return base::Error(message.code, message.text).with_help(message.help);
}

base::Error to_error(const ArtefactFailed& message) {
  return base::Error(message.code, message.text).with_help(message.help);
}

base::Result<std::pair<Channel, Channel>> Channel::pair() {
  std::array<int, 2> fds{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds.data()) != 0) {
    return base::Error::from_errno("socketpair", errno);
  }
  return std::pair(Channel(base::Fd(fds[0])), Channel(base::Fd(fds[1])));
}

base::Result<void> Channel::send(const Message& message) {
  const std::string bytes = encode(message);
  ssize_t sent = 0;
  do {
    sent = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) {
    return base::Error::from_errno("cannot send a control message", errno);
  }
  return {};
}

base::Result<std::variant<Message, EndOfFile, NothingYet>> Channel::receive() {
  using Received = std::variant<Message, EndOfFile, NothingYet>;
  std::string bytes(kMessageMax, '\0');
  ssize_t got = 0;
  do {
    got = ::recv(fd_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_TRUNC);
  } while (got < 0 && errno == EINTR);
  if (got < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return Received(NothingYet{});
    }
    // ECONNRESET: the peer died with messages unread.
    return Received(EndOfFile{});
  }
  if (got == 0) {
    return Received(EndOfFile{});
  }
  if (static_cast<std::size_t>(got) > bytes.size()) {
    return base::Error(base::ErrorCode::kBadMessage, "a control message that is too long");
  }
  MIK_TRY_ASSIGN(Message message,
                 decode(std::string_view(bytes).substr(0, static_cast<std::size_t>(got))));
  return Received(std::move(message));
}

}  // namespace mik::shared

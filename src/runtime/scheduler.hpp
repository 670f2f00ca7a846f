// Which guest runs next. Guests run on the loop thread, one slice at a time, between the loop's
// other work. Confined to the loop thread.
//
// Order. An account (a module) has five kinds of guests, in the order in which it serves them:
//   woken    waited for something that has come: they are about to finish
//   fresh    not started yet: in order of arrival, as long as few started ones still compute and
//            the pool has room
//   begun    were interrupted in their first slice: they may be short. Before fresh ones while they
//            have run for less than twice what half of their module's guests take
//   young    used up their slice: run to their end in order. Interleaving them would cost more:
//            each switch throws a heavy guest's memory out of the caches (20 to 40 % with
//            JavaScript)
//   old      have computed for kYoungMax without a rest: round robin, at least one turn in four
// The first three go first for kTurnMax, and then for kPassing times what those that were
// interrupted, of which begun ones have every other turn, have had since. So a guest that computes
// for ever never keeps one from starting and is not kept from going on, and short requests
// pass long ones. They pass at once: a guest that has run for a moment yields soon after the loop
// has input (engine/pace.hpp), and goes on at the head of its queue when that has been served. And
// they pass any number of long ones where most guests of their module are short; where most are
// long, starting one more would only be a switch more. Where kVain times in a row nobody got the
// loop that a guest of a module gave up early, its runs are not watched any more, and it has the
// loop for up to Pace::kGuard, until somebody gets it by that.
//
// Shares. Accounts take turns by deficit round robin (as in RFC 8290): tenants with each other, and
// within a tenant its modules. Each run is charged by the time it took. Who has used less than its
// quantum in this round stands in the list `sparse` and goes before the others, so that a tenant
// within its share waits for a slice at most, however many guests of others compute. Who owes waits
// in the list `round`, woken guests and all, until rounds have paid for it; its young guest may end
// first (kOverdraft). Who has been idle for a round is forgotten: nothing is saved, nothing owed.
//
// Answers. What guests have for their clients is written after the last of a row of short runs
// (write_soon): waking a peer costs a fifth of a short request, and a proxy that was woken for the
// first answer finds the others while it is awake. Nobody waits for a run that is known to be long
// at times, nor for more than kWriteWait and a run.
//
// The pool of instances is shared: an account may hold three times what is free (kPoolFactor), so
// that sleepers or endless guests of one leave a quarter for others, of two a sixteenth, and so on.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/time.hpp"
#include "engine/engine.hpp"
#include "engine/pace.hpp"
#include "net/loop.hpp"
#include "runtime/account.hpp"

namespace mik::runtime {

// Told of what happened to outgoing exchanges, after runs.
class OutboundSink {
 public:
  virtual ~OutboundSink() = default;
  virtual void on_outbound(const engine::OutboundEvents& events) = 0;
};

class Scheduler final : public net::TurnHook {
 public:
  static constexpr base::Duration kSlice = engine::Pace::kSlice;
  static constexpr base::Duration kYoungMax = std::chrono::milliseconds(5);
  // Who has waited so long is young again: a stream that says something now and then.
  static constexpr base::Duration kRest = std::chrono::milliseconds(10);
  static constexpr base::Duration kQuantum = std::chrono::milliseconds(10);
  // Young guests at once; further ones wait unstarted. An account without one may always start one,
  // and so may one whose guests are mostly short.
  static constexpr std::size_t kStartedMax = 2;
  // After so long the loop looks at its sockets again.
  static constexpr base::Duration kTurnMax = std::chrono::milliseconds(2);
  // And where modules share it, behind a run that was over before it could be interrupted. A tenant
  // all of whose guests take 0.3 ms made its neighbour's p99 3.0 ms, and 1.5 with this.
  static constexpr base::Duration kTurnShared = std::chrono::microseconds(200);
  static constexpr int kPassing = 2;
  // How far an account may go into debt to bring a young guest to its end.
  static constexpr base::Duration kOverdraft = kYoungMax;
  // More is not owed: a single run that took so long was not the guest's doing.
  static constexpr base::Duration kDebtMax = std::chrono::milliseconds(50);
  static constexpr std::size_t kPoolFactor = 3;
  // Of an answer, for those of the runs behind it; and how long such a run may take.
  static constexpr base::Duration kWriteWait = std::chrono::microseconds(100);
  static constexpr base::Duration kShortRun = std::chrono::microseconds(50);

  // Who shares the pool: one module has it all, of several none does.
  enum class Sharing : std::uint8_t { kOneModule, kManyModules };
  using ClockFunction = base::Time (*)() noexcept;

  // `instances_max`: what the engine's pool holds. Guests beyond it wait unstarted.
  Scheduler(engine::Guests& guests, engine::Ticker& ticker, OutboundSink& outbound,
            std::size_t instances_max, Sharing sharing = Sharing::kOneModule,
            ClockFunction clock = base::Clock::now);
  ~Scheduler() override;

  // A new guest; `id` from Guests::start. Without an account it stands in one that all such share.
  // The account outlives the guest.
  void add(GuestTask& task, engine::RequestId id, Account* account = nullptr);
  // Forgets the task, wherever it is. The caller releases the id.
  void remove(GuestTask& task) noexcept;
  // Both, whether the guest is over or not: what giving its memory back will take is its account's.
  void release(GuestTask& task) noexcept;

  // Calls the task's on_write: before a turn is over, and soon. For tasks that were added.
  void write_soon(GuestTask& task);

  bool on_turn(base::Time now) override;
  base::Time next_deadline() override;

  std::size_t unstarted() const noexcept { return counts_[Account::kFresh]; }
  std::size_t computing() const noexcept {
    return counts_[Account::kBegun] + counts_[Account::kYoung] + counts_[Account::kOld];
  }
  std::size_t instances() const noexcept { return instances_; }

 private:
  using Kind = Account::Kind;
  enum class End : std::uint8_t { kFront, kBack };
  // Whether a run keeps one waiting that was interrupted, or is the turn of one that has waited.
  enum class Passes : std::uint8_t { kNone, kOne, kItsTurn };
  struct Pick {
    GuestTask* task;
    Kind kind;
    bool turn = false;  // of those that were passed for long
  };

  bool run(Pick pick);
  void judge_yield(Account& account, bool goes_on) noexcept;
  static void note_length(GuestTask& task, base::Duration ran, bool over) noexcept;
  void requeue(GuestTask& task, base::Duration ran, Kind from);
  void put(GuestTask& task, Kind kind, End end);
  void take_out(GuestTask& task) noexcept;
  void take_instance(GuestTask& task) noexcept;
  void drop_instance(GuestTask& task) noexcept;
  void count_memory(GuestTask& task, std::uint64_t bytes) noexcept;

  // Which account, then which of its guests.
  Account* next_account();
  Account* next(Account::Lists& lists);
  Account* ready_module(Account& account);
  static bool may_go_on(Account& account) noexcept;
  void end_visit(Account& account, Account::Lists& lists);
  Pick next_task(Account& account);
  void activate(Account& account);
  void activate_among(Account& account, Account::Lists& lists);
  void charge(Account& account, Kind kind, Passes passes, base::Duration ran) noexcept;
  static void pay(Account& account, base::Duration ran) noexcept;
  bool may_start(const Account& account) const noexcept;
  bool within_share(const Account& account) const noexcept;
  void revive_starved();

  bool shall_look(base::Duration ran) const noexcept;
  bool out_of_time() const noexcept { return now_ - turn_start_ >= kTurnMax; }
  void serve();
  void take_woken(base::Time now);
  void enqueue_woken(GuestTask& task);
  void hand_out_outbound();
  void write_all();

  engine::Guests& guests_;
  engine::Ticker& ticker_;
  OutboundSink& outbound_;
  const std::size_t instances_max_;
  const Sharing sharing_;
  const ClockFunction clock_;
  std::size_t instances_ = 0;
  std::array<std::size_t, Account::kKinds> counts_{};
  Account::Lists root_;
  AccountList starved_;              // have nothing but guests that the pool has no room for
  bool pool_changed_ = false;        // since they were looked at
  Account nobody_;                   // whose guests have no account
  GuestTask* running_ = nullptr;     // null again when it is removed while it runs
  std::vector<GuestTask*> writing_;  // null: removed meanwhile
  base::Time writing_since_;
  std::uint64_t runs_ = 0;
  base::Time now_;
  base::Time turn_start_;
  base::Time next_sweep_;
};

}  // namespace mik::runtime

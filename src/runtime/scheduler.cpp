#include "runtime/scheduler.hpp"

#include <algorithm>
#include <utility>

#include "base/assert.hpp"

namespace mik::runtime {

namespace {

constexpr std::size_t kBatch = 64;
// Kept (reuse) instances that idle are looked for this often.
constexpr base::Duration kSweep = std::chrono::seconds(1);

}  // namespace

Scheduler::Scheduler(engine::Guests& guests, engine::Ticker& ticker, OutboundSink& outbound,
                     std::size_t instances_max, Sharing sharing, ClockFunction clock)
    : guests_(guests),
      ticker_(ticker),
      outbound_(outbound),
      instances_max_(instances_max),
      sharing_(sharing),
      clock_(clock) {}

Scheduler::~Scheduler() {
  MIK_ASSERT(std::ranges::all_of(counts_, [](std::size_t count) { return count == 0; }));
  for (AccountList* list : {&root_.sparse, &root_.round, &starved_}) {
    while (Account* account = list->front()) {
      list->remove(*account);
    }
  }
}

void Scheduler::add(GuestTask& task, engine::RequestId id, Account* account) {
  MIK_ASSERT(task.account_ == nullptr);
  task.id_ = id;
  task.account_ = account == nullptr ? &nobody_ : account;
  MIK_ASSERT(task.account_->modules_ == 0);
  task.computed_ = {};
  task.quantum_ = {};
  task.memory_ = 0;
  task.over_ = false;
  for (Account* a = task.account_; a != nullptr; a = a->parent_) {
    ++a->guests_;
  }
  put(task, Account::kFresh, End::kBack);
}

void Scheduler::remove(GuestTask& task) noexcept {
  if (task.account_ == nullptr) {
    return;
  }
  if (task.queue_ != nullptr) {
    take_out(task);
  }
  if (running_ == &task) {
    running_ = nullptr;
  }
  if (std::exchange(task.writes_, false)) {
    std::ranges::replace(writing_, &task, nullptr);
  }
  drop_instance(task);
  count_memory(task, 0);
  Account* account = std::exchange(task.account_, nullptr);
  if (account->list_ == &starved_ && account->queue(Account::kFresh).empty()) {
    starved_.remove(*account);
  }
  for (; account != nullptr; account = account->parent_) {
    --account->guests_;
  }
}

void Scheduler::release(GuestTask& task) noexcept {
  Account* const account = task.account_;  // outlives the task
  remove(task);
  guests_.release(task.id_);
  const base::Duration put_off = guests_.put_off();
  if (account != nullptr && put_off > base::Duration::zero()) {
    pay(*account, put_off);
  }
}

void Scheduler::put(GuestTask& task, Kind kind, End end) {
  Account& account = *task.account_;
  TaskQueue& queue = account.queue(kind);
  end == End::kFront ? queue.push_front(task) : queue.push_back(task);
  ++counts_[kind];
  if (kind == Account::kBegun || kind == Account::kYoung) {
    ++account.young_;
    if (account.parent_ != nullptr) {
      ++account.parent_->young_;
    }
  }
  activate(account);
}

void Scheduler::take_out(GuestTask& task) noexcept {
  Account& account = *task.account_;
  const auto kind = static_cast<Kind>(task.queue_ - account.queues_.data());
  task.queue_->remove(task);
  --counts_[kind];
  if (kind == Account::kBegun || kind == Account::kYoung) {
    --account.young_;
    if (account.parent_ != nullptr) {
      --account.parent_->young_;
    }
  }
}

void Scheduler::take_instance(GuestTask& task) noexcept {
  if (!std::exchange(task.has_instance_, true)) {
    ++instances_;
    for (Account* a = task.account_; a != nullptr; a = a->parent_) {
      ++a->instances_;
    }
  }
}

void Scheduler::drop_instance(GuestTask& task) noexcept {
  if (std::exchange(task.has_instance_, false)) {
    --instances_;
    pool_changed_ = true;
    for (Account* a = task.account_; a != nullptr; a = a->parent_) {
      --a->instances_;
    }
  }
}

void Scheduler::count_memory(GuestTask& task, std::uint64_t bytes) noexcept {
  const std::uint64_t before = std::exchange(task.memory_, bytes);
  if (before != bytes) {
    for (Account* a = task.account_; a != nullptr; a = a->parent_) {
      a->memory_bytes_ += bytes - before;
      if (a->gauge_ != nullptr) {
        a->gauge_->store(a->memory_bytes_, std::memory_order_relaxed);
      }
    }
  }
}

// --- which account
// --------------------------------------------------------------------------------

void Scheduler::activate(Account& account) {
  if (account.list_ == &starved_) {
    starved_.remove(account);
  }
  if (account.parent_ == nullptr) {
    activate_among(account, root_);
  } else {
    activate_among(account, account.parent_->below_);
    activate_among(*account.parent_, root_);
  }
}

void Scheduler::activate_among(Account& account, Account::Lists& lists) {
  if (account.list_ == nullptr) {
    account.deficit_ = account.quantum_;
    account.visited_ = false;
    account.served_ = false;
    lists.sparse.push_back(account);
  } else if (account.list_ == &lists.round && !account.visited_ &&
             account.deficit_ > account.deficit_.zero()) {
    // It had nothing to run and has something left in this round.
    lists.round.remove(account);
    lists.sparse.push_back(account);
  }
}

bool Scheduler::may_start(const Account& account) const noexcept {
  const std::size_t started = counts_[Account::kBegun] + counts_[Account::kYoung];
  const bool few = account.young_ == 0 || started < kStartedMax || account.mostly_short();
  return few && instances_ < instances_max_ && within_share(account);
}

bool Scheduler::within_share(const Account& account) const noexcept {
  if (sharing_ == Sharing::kOneModule) {
    return true;
  }
  const std::size_t share = kPoolFactor * (instances_max_ - instances_);
  return account.instances_ < share &&
         (account.parent_ == nullptr || account.parent_->instances_ < share);
}

// The module itself, or the one of a tenant whose turn it is; null when there is nothing to run.
Account* Scheduler::ready_module(Account& account) {
  if (account.modules_ != 0) {
    return next(account.below_);
  }
  const bool ready = !account.queue(Account::kWoken).empty() ||
                     !account.queue(Account::kBegun).empty() || account.computes() ||
                     (!account.queue(Account::kFresh).empty() && may_start(account));
  return ready ? &account : nullptr;
}

// In the round: a quantum as its turn begins, if it has none left; then until that is used up.
bool Scheduler::may_go_on(Account& account) noexcept {
  constexpr base::Duration kNothing{};
  if (!account.visited_) {
    if (account.deficit_ <= kNothing) {
      account.deficit_ += account.quantum_;
    }
    account.visited_ = account.deficit_ > kNothing;
    return account.visited_;
  }
  return account.deficit_ > kNothing || (account.young_ > 0 && account.deficit_ > -kOverdraft);
}

void Scheduler::end_visit(Account& account, Account::Lists& lists) {
  lists.round.remove(account);
  const bool idle =
      account.visited_ && account.deficit_ > base::Duration::zero() && !account.served_;
  account.visited_ = false;
  account.served_ = false;
  if (!idle) {
    lists.round.push_back(account);
  } else if (!account.queue(Account::kFresh).empty()) {
    starved_.push_back(account);
  }
}

Account* Scheduler::next(Account::Lists& lists) {
  while (Account* account = lists.sparse.front()) {
    Account* module = account->deficit_ > base::Duration::zero() ? ready_module(*account) : nullptr;
    if (module != nullptr) {
      return module;
    }
    lists.sparse.remove(*account);
    lists.round.push_back(*account);
  }
  while (Account* account = lists.round.front()) {
    Account* module = may_go_on(*account) ? ready_module(*account) : nullptr;
    if (module != nullptr) {
      return module;
    }
    end_visit(*account, lists);
  }
  return nullptr;
}

void Scheduler::revive_starved() {
  if (!std::exchange(pool_changed_, false)) {
    return;
  }
  Account* last = nullptr;
  while (Account* account = starved_.front()) {
    if (account == last) {
      break;
    }
    starved_.remove(*account);
    if (may_start(*account)) {
      activate(*account);
    } else {
      starved_.push_back(*account);
      last = last == nullptr ? account : last;
    }
  }
}

Account* Scheduler::next_account() {
  if (Account* account = next(root_); account != nullptr) {
    return account;
  }
  revive_starved();
  return next(root_);
}

void Scheduler::charge(Account& account, Kind kind, Passes passes, base::Duration ran) noexcept {
  if (passes == Passes::kItsTurn) {
    // In proportion: who is preempted early is passed for less long.
    account.passed_ = std::max(account.passed_ - kPassing * ran, base::Duration{});
  } else {
    account.passed_ =
        passes == Passes::kOne ? std::min(account.passed_ + ran, kTurnMax) : base::Duration{};
    account.woken_for_ = kind == Account::kWoken ? account.woken_for_ + ran : base::Duration{};
  }
  account.run_ = std::max(ran, account.run_ - account.run_ / 8);
  pay(account, ran);
}

void Scheduler::pay(Account& account, base::Duration ran) noexcept {
  for (Account* a = &account; a != nullptr; a = a->parent_) {
    a->cpu_ += ran;
    a->deficit_ = std::max(a->deficit_ - ran, -kDebtMax);
    a->served_ = true;
  }
}

// --- which of its guests
// --------------------------------------------------------------------------

Scheduler::Pick Scheduler::next_task(Account& account) {
  const auto first = [&](Kind kind) {
    return Pick{.task = account.queue(kind).front(), .kind = kind};
  };
  if (!account.has_started() || account.passed_ < kTurnMax) {
    const bool start = !account.queue(Account::kFresh).empty() && may_start(account);
    // Guests that wait just before their slice is over would keep all others from starting.
    if (!account.queue(Account::kWoken).empty() && !(start && account.woken_for_ >= kTurnMax)) {
      return first(Account::kWoken);
    }
    // One that may be as short as the next is not passed by it: where guests are alike, the last of
    // a crowd would be passed by all who come.
    const GuestTask* begun = account.queue(Account::kBegun).front();
    if (begun != nullptr && (!start || begun->computed_ < 2 * account.median())) {
      return first(Account::kBegun);
    }
    if (start) {
      return first(Account::kFresh);
    }
  }
  // One that was passed for long enough, or all there is.
  const bool begun_turn =
      !account.queue(Account::kBegun).empty() && !(account.begun_had_turn_ && account.computes());
  account.begun_had_turn_ = begun_turn;
  if (begun_turn) {
    return {.task = account.queue(Account::kBegun).front(), .kind = Account::kBegun, .turn = true};
  }
  const bool young = !account.queue(Account::kYoung).empty();
  const bool old = !account.queue(Account::kOld).empty();
  const bool old_turn = !young || (old && account.turns_for_young_ >= 3);
  account.turns_for_young_ = old_turn ? 0 : account.turns_for_young_ + 1;
  const Kind kind = old_turn ? Account::kOld : Account::kYoung;
  return {.task = account.queue(kind).front(), .kind = kind, .turn = true};
}

// What the account's last yield was good for is known when it runs next.
void Scheduler::judge_yield(Account& account, bool goes_on) noexcept {
  if (account.yielded_at_ != 0) {
    account.note_yield(goes_on && account.yielded_at_ == runs_);
  }
}

// Whether the guest was made to yield: the ticker says when, so that the engine need only know
// which ticks are too early to be meant for this run.
bool Scheduler::run(Pick pick) {
  GuestTask& task = *pick.task;
  Account& account = *task.account_;
  take_out(task);
  const bool others = pick.kind == Account::kBegun ? account.computes() : account.has_started();
  const Passes passes = pick.turn ? Passes::kItsTurn : others ? Passes::kOne : Passes::kNone;
  running_ = &task;
  take_instance(task);
  const base::Time start = now_;
  const bool goes_on = pick.kind != Account::kFresh && pick.kind != Account::kWoken;
  judge_yield(account, goes_on);
  ++runs_;
  // Others may wait for the end of this run.
  const bool watched = (goes_on || account.may_be_long()) && !account.yields_in_vain();
  guests_.put_off();  // of instances that were kept, or dropped with their module: nobody's
  ticker_.begin_run(start, watched);
  const engine::Events events = guests_.run(task.id_, start, engine::Pace::kRunMin);
  ticker_.end_run();
  now_ = clock_();
  const base::Duration ran = now_ - start;
  // Who yields has been asked to, and nobody is asked sooner.
  const base::Duration length =
      events.yielded() ? std::max<base::Duration>(ran, engine::Pace::kRunMin) : ran;
  account.note_run(length);
  // Who gives up a whole slice loses nothing by it.
  const bool tells = events.yielded() && (ran < engine::Pace::kSlice || account.yields_in_vain());
  account.yielded_at_ = tells ? runs_ : 0;
  note_length(task, length, events.done());
  task.ran_at_ = now_;
  if (events.done()) {
    task.over_ = true;
    drop_instance(task);
  }
  count_memory(task, events.done() ? 0 : guests_.memory_bytes(task.id_));
  task.on_run(events);
  if (events.yielded() && running_ == &task) {
    requeue(task, ran, pick.kind);
  }
  running_ = nullptr;
  now_ = clock_();  // what was made of the run, a response above all, is charged, too
  charge(account, pick.kind, passes, now_ - start + guests_.put_off());
  return events.yielded();
}

// Adds the run to the guest's time, and counts the guest among its module's long or short ones when
// it is clear which of them it is.
void Scheduler::note_length(GuestTask& task, base::Duration ran, bool over) noexcept {
  const bool was_long = task.computed_ >= kSlice;
  task.computed_ += ran;
  if (!was_long && (over || task.computed_ >= kSlice)) {
    task.account_->note_guest(task.computed_);
  }
}

void Scheduler::requeue(GuestTask& task, base::Duration ran, Kind from) {
  // Who was at the head stays there; who comes waits behind.
  if (task.computed_ < kSlice) {
    put(task, Account::kBegun, from == Account::kBegun ? End::kFront : End::kBack);
    return;
  }
  if (task.computed_ < kYoungMax) {
    const bool computed = from == Account::kYoung || from == Account::kOld;
    put(task, Account::kYoung, computed ? End::kFront : End::kBack);
    return;
  }
  task.quantum_ += ran;
  if (task.quantum_ >= kQuantum) {
    task.quantum_ = {};
    put(task, Account::kOld, End::kBack);
  } else {
    put(task, Account::kOld, End::kFront);
  }
}

// --- turns
// ----------------------------------------------------------------------------------------

void Scheduler::take_woken(base::Time now) {
  std::array<engine::Guests::Woken, kBatch> woken;
  std::size_t count = 0;
  do {  // all: a turn that leaves some behind might be followed by a sleep
    count = guests_.take_woken(now, woken);
    for (std::size_t i = 0; i < count; ++i) {
      auto& task = *reinterpret_cast<GuestTask*>(woken[i].user);
      // In a queue it is about to run in any case; over, it has nothing to say.
      if (task.account_ != nullptr && task.queue_ == nullptr && !task.over_) {
        enqueue_woken(task);
      }
    }
  } while (count == woken.size());
}

void Scheduler::enqueue_woken(GuestTask& task) {
  if (now_ - task.ran_at_ >= kRest) {
    task.computed_ = {};
  }
  // Who waits only to be woken at once computes as well as one that yields.
  put(task, task.computed_ < kYoungMax ? Account::kWoken : Account::kOld, End::kBack);
}

void Scheduler::hand_out_outbound() {
  std::array<engine::OutboundEvents, kBatch> events;
  std::size_t count = 0;
  do {
    count = guests_.take_outbound_events(events);
    for (std::size_t i = 0; i < count; ++i) {
      outbound_.on_outbound(events[i]);
    }
  } while (count == events.size());
}

void Scheduler::write_soon(GuestTask& task) {
  MIK_ASSERT(task.account_ != nullptr);
  if (std::exchange(task.writes_, true)) {
    return;
  }
  if (writing_.empty()) {
    writing_since_ = now_;
  }
  writing_.push_back(&task);
}

void Scheduler::write_all() {
  for (std::size_t i = 0; i < writing_.size(); ++i) {
    if (GuestTask* task = writing_[i]; task != nullptr) {
      writing_[i] = nullptr;
      task->writes_ = false;
      Account& account = *task->account_;  // outlives the task
      const base::Time start = now_;
      task->on_write();
      now_ = clock_();
      pay(account, now_ - start);
    }
  }
  writing_.clear();
}

// Behind guests of 0.1 to 0.5 ms among several modules. Many that are shorter cost less than
// looking does; longer ones are mostly interrupted.
bool Scheduler::shall_look(base::Duration ran) const noexcept {
  return sharing_ == Sharing::kManyModules && ran >= engine::Pace::kRunMin && ran < kSlice / 2 &&
         now_ - turn_start_ >= kTurnShared;
}

// Until the loop should look at its sockets: a guest yielded, which it does when there is input, or
// many that only pass data on had a slice of one that computes, or kTurnMax of others,
// or it shall_look().
void Scheduler::serve() {
  base::Duration computed{};
  std::size_t computed_left = 0;
  bool any_computed = false;
  while (!out_of_time() && computed < kSlice) {
    Account* account = next_account();
    if (account == nullptr) {
      return;
    }
    const bool may_be_long = account->run_ > kShortRun || account->has_started();
    if (!writing_.empty() && (may_be_long || now_ - writing_since_ >= kWriteWait)) {
      write_all();  // and look again: a guest whose client has gone is no more
      continue;
    }
    const Pick pick = next_task(*account);
    const bool computes = pick.kind == Account::kYoung || pick.kind == Account::kOld;
    if (computes) {
      // At most those that are there now: each has one.
      computed_left = std::exchange(any_computed, true) ? computed_left : computing();
      if (computed_left-- == 0) {
        return;
      }
    }
    const base::Time start = now_;
    if (run(pick)) {
      return;
    }
    const base::Duration ran = now_ - start;
    if (shall_look(ran)) {
      return;
    }
    computed += computes ? ran : base::Duration::zero();
  }
}

bool Scheduler::on_turn(base::Time now) {
  now_ = now;
  take_woken(now);
  revive_starved();
  now_ = clock_();  // the loop's own work in this turn is no guest's
  turn_start_ = now_;
  serve();
  write_all();
  hand_out_outbound();
  take_woken(now_);
  const bool untidy = guests_.tidy();
  if (now_ >= next_sweep_) {
    guests_.drop_idle(now_);
    next_sweep_ = now_ + kSweep;
  }
  return untidy || next_account() != nullptr;
}

base::Time Scheduler::next_deadline() { return guests_.next_timer(); }

}  // namespace mik::runtime

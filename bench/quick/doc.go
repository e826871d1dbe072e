// Package quick guards the hot path against regressions without a clock: it counts what a record costs in allocations, in allocated bytes and,
// where the kernel lets a process count them, in instructions, and holds the counts against the budgets in budget.json. The counts are
// the same on a loaded machine, so that the test is part of every test run; `make bench-quick` shows the numbers.
//
// Two paths are counted: the fold alone (decode, decode, encode), and the whole runtime over a log in memory, which costs as good as nothing
// itself. When a change makes a record cheaper, lower the budget to what the test says; when one makes it dearer for a reason, raise it in
// the same commit.
package quick

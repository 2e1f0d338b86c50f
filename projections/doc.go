// Package projections owns the read models: what is live in each deployment,
// what became of each delivery, and the history of attempts. All three are one
// fold of the event log (State.Apply), so they cannot disagree with each other:
// they share one checkpoint, which moves in the same transaction as their rows.
// The same fold serves live update, rebuild, verification and a look at the past.
package projections

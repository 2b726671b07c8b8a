/*-------------------------------------------------------------------------
 *
 * fill_run.h
 *	  Typed access to kappa.fill: how far replays are
 *
 * All functions need a transaction, and act as kappa whoever calls them.
 *
 * IDENTIFICATION
 *	  src/fill_run.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_FILL_RUN_H
#define KAPPA_FILL_RUN_H

#include "nodes/pg_list.h"

typedef struct KappaFill
{
	Oid view;
	int32 version;
	Oid staging; /* InvalidOid if there is none */
	bool active;
} KappaFill;

/* A stretch of a partition, and what is left of it. */
typedef struct KappaFillRange
{
	int32 part;
	int64 start_offset; /* its name */
	int64 next_offset;
	int64 end_offset; /* not part of it */
	int64 shared;     /* messages that were read for another version */
} KappaFillRange;

/* NULL if the version was never replayed in parallel, or has been; palloc'd. */
extern KappaFill *kappa_fill_get(Oid view, int32 version);

/* The same; and until the end of the transaction nobody else gets it.  NULL if somebody has it. */
extern KappaFill *kappa_fill_lock(Oid view, int32 version);

/* All that are active, of KappaFill. */
extern List *kappa_fill_list(void);

/*
 * Those of them that read what fill reads, as the same owner; of KappaFill, in
 * the order of view and version.  fill is one of them.
 */
extern List *kappa_fill_list_alike(const KappaFill *fill);

extern void kappa_fill_insert(Oid view, int32 version, Oid staging);
extern void kappa_fill_insert_range(Oid view, int32 version, const KappaFillRange *range);

/* What a process does next for a version. */
typedef struct KappaFillShare
{
	KappaFill *fill;
	List *ranges; /* of KappaFillRange */
} KappaFillShare;

/*
 * Take ranges of a version that are not done and that nobody works on, some of
 * them at most, and of others (fills, of KappaFill, in their order; the version
 * is one of them) those that go on at the same offsets.  Returns a list of
 * KappaFillShare: of the version, and of those that have all of what was taken;
 * NIL if there is nothing.  All of it is the caller's until the end of the
 * transaction.
 */
extern List *kappa_fill_claim(const KappaFill *fill, const List *fills, int max);

/* Store the next offset of a range, and how much of it was shared. */
extern void kappa_fill_advance(Oid view, int32 version, const KappaFillRange *range);

/* How a replay stands. */
typedef struct KappaFillProgress
{
	int nopen;      /* ranges that are not done */
	bool split;     /* some partition has several ranges */
	int64 messages; /* that have been read, by offsets */
	int64 shared;   /* of them for another version */
} KappaFillProgress;

extern void kappa_fill_get_progress(Oid view, int32 version, KappaFillProgress *progress);

/* Put the ends of all ranges into an array of next offsets. */
extern void kappa_fill_get_ends(Oid view, int32 version, int64 *next, int npartitions);

/* Move the position of a version in one partition. */
extern void kappa_fill_move_position(Oid view, int32 version, int32 part, int64 next_offset);

/* It is done: forget it. */
extern void kappa_fill_delete(Oid view, int32 version);

/* It is given up: remember that. */
extern void kappa_fill_abandon(Oid view, int32 version);

#endif /* KAPPA_FILL_RUN_H */

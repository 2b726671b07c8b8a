/*-------------------------------------------------------------------------
 *
 * rebuild_log.h
 *	  What a rebuild is going to read: from where to where, and what is gone
 *
 * IDENTIFICATION
 *	  src/rebuild_log.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_REBUILD_LOG_H
#define KAPPA_REBUILD_LOG_H

#include "catalog.h"
#include "fdw_options.h"
#include "view_start.h"

/* One partition; offsets are -1 where there is none. */
typedef struct KappaReplayPart
{
	int64 log_begin; /* the log as it stands */
	int64 log_end;
	int64 start;          /* of the new version; -1: wherever the log begins at its first batch */
	int64 missing;        /* offsets that belong to the version and are not in the log any more */
	int64 missing_us;     /* how long these took to come; -1: not known */
	bool estimated;       /* that is, from the rate of the messages that are left */
	TimestampTz first_at; /* the first message left, if some are missing; DT_NOBEGIN: not known */
} KappaReplayPart;

typedef struct KappaReplayPlan
{
	int nparts; /* of the topic, or of the view if it has more */
	KappaReplayPart *parts;
	int nstarts;       /* partitions whose start is to be stored; the others have none */
	char *missing;     /* all that is missing, for people; NULL if nothing */
	int64 messages;    /* to read, by offsets */
	int64 bytes;       /* about how many; -1: not known */
	double rate;       /* messages per second that have been measured; 0: none has */
	const char *basis; /* where, static text */
} KappaReplayPlan;

/*
 * Ask the brokers how the log stands, and plan the replay of a view's next
 * version over a table: from where the live version starts, or from another
 * place if start is given.  palloc'd in CurrentMemoryContext.  Throws what the
 * brokers do.
 */
extern KappaReplayPlan *kappa_replay_plan(const KappaView *view, const KappaTable *table,
										  const KappaStart *start);

/* The start offsets that are to be stored, one for each of nstarts partitions. */
extern int64 *kappa_replay_get_starts(const KappaReplayPlan *plan);

/* The log as it was found: its bounds, for each of the partitions that it returns. */
extern int kappa_replay_get_log(const KappaReplayPlan *plan, int64 **begin, int64 **end);

/* Say how much is going to be read, and about how long it takes. */
extern void kappa_replay_announce(const KappaView *view, const KappaReplayPlan *plan);

#endif /* KAPPA_REBUILD_LOG_H */

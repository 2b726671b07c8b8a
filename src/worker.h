/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  The process that applies messages to a set of views
 *
 * The worker's set, its sources (source.h) and its deliveries (deliver.h) are
 * three files of one loop; what they need of each other is here.
 *
 * IDENTIFICATION
 *	  src/worker.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_WORKER_H
#define KAPPA_WORKER_H

#include "apply.h"
#include "blame.h"
#include "shmem.h"

struct KappaSource;

/* What one delivery has done for a view; counted once it has committed. */
typedef struct KappaTurn
{
	uint64 messages;
	uint64 bytes;
	uint64 rows;
	uint64 apply_us;
	uint64 letters; /* messages that were set aside */
	bool recorded;  /* the last messages were written to kappa.last_message */
} KappaTurn;

/* A version of a view that this worker serves. */
typedef struct KappaServed
{
	MemoryContext context; /* holds the struct; child of KappaWorkerContext */
	int slot;              /* in shared memory */
	Oid view;
	int32 version;
	const char *name;           /* for the log; NULL until it has failed while it was not open */
	KappaApplier *applier;      /* NULL while it is not open */
	struct KappaSource *source; /* NULL likewise */
	bool with_headers;          /* reads the messages' headers */
	bool limited;               /* has a source of its own */
	bool log_set;               /* the applier knows how the log stands */
	bool started;               /* has been looked at before its first message was applied */
	bool reload;                /* open it anew before the next batch */
	bool troubled;              /* shown as retrying; see kappa_worker_update_state */
	bool failing;               /* because of an error of its own */
	bool caught_up;             /* has been close to the end since it was opened */
	bool announced;             /* said so in shared memory */
	KappaRunState state;        /* as last reported, unless troubled */
	TimestampTz opened_at;

	/*
	 * The last messages applied before it was opened, which the log must still
	 * hold.  offset[p] is -1 for what has been seen, or need not be.  NULL if
	 * all has.
	 */
	KappaLastMessage *check;
	KappaTurn turn;
	KappaFaults faults; /* in the batch in hand; in KappaRoundContext */
	int pieces;         /* in which that is applied, one after the other; 0: as a whole */
	KappaBudget budget;
	TimestampTz last_letter_at; /* when it wrote one, to tell bursts apart */
	TimestampTz recorded_at;    /* when kappa.last_message was written */
	bool unrecorded;            /* there were messages since */
	TimestampTz rebuild_at;     /* a shadow's next turn of its rebuild */
} KappaServed;

/* Lives as long as the process. */
extern MemoryContext KappaWorkerContext;

/* Reset in each round of the loop. */
extern MemoryContext KappaRoundContext;

/* All that this worker serves, of KappaServed. */
extern List *kappa_worker_views;

/*
 * Run a step of the work.  Returns NULL, or the error that it threw, in
 * KappaRoundContext; whatever transaction it left open is then aborted.  A
 * query that is cancelled, but for the statements of a view, is not the step's
 * failure: it is thrown on, and ends the process.  The caller is in
 * KappaRoundContext before and after.
 */
extern ErrorData *kappa_worker_attempt(void (*step)(void *arg), void *arg);

/*
 * A view cannot go on: it leaves this worker, to be retried, or for good if
 * the error says so.  where, if not NULL, is added to the reason.  Frees
 * served.
 */
extern void kappa_worker_fail_view(KappaServed *served, ErrorData *error, const char *where);

/*
 * A view waits, in its place, for trouble of its source to go away; and it has
 * gone.
 */
extern void kappa_worker_suspend_view(KappaServed *served, const ErrorData *error,
									  TimestampTz retry_at);
extern void kappa_worker_resume_view(KappaServed *served);

/* Open all versions of a view that are served here anew, before their next batch. */
extern void kappa_worker_reload(Oid view);

/* Record something in kappa.events, in a transaction of its own. */
extern void kappa_worker_add_event(KappaServed *served, const char *event,
								   const char *sqlstate, const char *detail);

/*
 * Begin a transaction of a process that applies messages.  It holds the extension
 * first of all, see kappa_catalog_hold(); if that is gone, the process ends.
 */
extern void kappa_worker_begin(void);

/* Message, detail and hint of an error as one text. */
extern char *kappa_worker_describe_error(const ErrorData *error);

/* The earlier of two moments, of which 0 is never. */
static inline TimestampTz
kappa_earlier(TimestampTz a, TimestampTz b)
{
	if (a == 0 || b == 0)
		return Max(a, b);
	return Min(a, b);
}

/* Entry point of the process. */
extern PGDLLEXPORT void kappa_worker_main(Datum arg);

/* Settings of every process that applies messages, whatever the database or the role has set. */
extern void kappa_worker_pin_settings(void);

#endif /* KAPPA_WORKER_H */

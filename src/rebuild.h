/*-------------------------------------------------------------------------
 *
 * rebuild.h
 *	  Bring a view's next version from the start of the log to the readers
 *
 * A rebuild is a version of a view that is not live: it has a definition, a
 * companion and a position of its own, and its rows go to a table of its own,
 * the shadow.  Workers apply messages to it as to any version.  What else has
 * to be done, and when, is decided by kappa_rebuild_step().
 *
 * IDENTIFICATION
 *	  src/rebuild.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_REBUILD_H
#define KAPPA_REBUILD_H

#include "apply.h"

typedef enum KappaRebuildAction
{
	/* go on applying */
	KAPPA_REBUILD_CONTINUE,
	/* go on; the shadow may join the set of the live version now */
	KAPPA_REBUILD_JOIN,
	/* versions have come or gone: close both appliers, look at the set anew */
	KAPPA_REBUILD_RELOAD,
} KappaRebuildAction;

/*
 * Take a rebuild a step further, or see to a previous version.  A worker calls
 * this for each applier that is not live, after every batch and whenever the
 * delay has passed, outside any transaction; it begins and ends transactions of
 * its own.
 *
 * live is the applier of the view's live version if the same worker holds it,
 * so that both move in the same transactions; else NULL.  caught_up: the shadow
 * has reached the end of the log, as far as the worker knows.  A shadow must
 * not join the live version's worker before KAPPA_REBUILD_JOIN, unless it is
 * ready (kappa_rebuild_note_replayed): its indexes are built in its own.
 * *delay_ms is set to the time after which to call again though no message
 * comes, or -1.
 *
 * Whatever makes this rebuild impossible ends it: the version is dropped, the
 * error is shown in kappa.rebuilds, and the result is KAPPA_REBUILD_RELOAD.
 * Errors that may pass are thrown, with no transaction left open; the worker
 * treats them as those of a batch.
 */
extern KappaRebuildAction kappa_rebuild_step(KappaApplier *shadow, KappaApplier *live,
											 bool caught_up, int *delay_ms);

/*
 * The log has been replayed into a version that is not live, messages in all.  If
 * it lacks neither indexes nor statistics it may join the live version at once.
 * Needs a transaction.
 */
extern void kappa_rebuild_note_replayed(const KappaApplier *shadow, int64 messages);

/*
 * A version of a view leaves this worker, or has moved in other transactions than
 * the others: forget which snapshots are older than the moment at which its
 * versions stood together.
 */
extern void kappa_rebuild_forget(Oid view);

/*
 * End a rebuild because of an error that will not pass (ERRCODE_KAPPA_STOP
 * from a version that is not live), or drop a previous version for it.  The
 * view itself goes on.  Needs a transaction.
 */
extern void kappa_rebuild_fail(Oid view, int32 version, const char *error);

/* Could what has met this error succeed at another time? */
extern bool kappa_rebuild_error_may_pass(int sqlerrcode);

#endif /* KAPPA_REBUILD_H */

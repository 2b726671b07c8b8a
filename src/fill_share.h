/*-------------------------------------------------------------------------
 *
 * fill_share.h
 *	  Versions that read the log together
 *
 * IDENTIFICATION
 *	  src/fill_share.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_FILL_SHARE_H
#define KAPPA_FILL_SHARE_H

#include "fill_run.h"

/* Whether a version is among those that should run, of KappaVersion. */
extern bool kappa_share_is_runnable(const KappaFill *fill, const List *runnable);

/*
 * Whether something may be done for another version (or the version itself) on
 * the way: it should run, and does not wait after an error.  If so its tables are
 * locked as by readers, before any of its ranges: who drops a view or a version
 * has their locks when he comes to these.  Only the version's own are waited for.
 */
extern bool kappa_share_enter(const KappaFill *fill, const KappaFill *other,
							  const List *runnable);

/* There is nothing to do for it after all: who wants its tables need not wait. */
extern void kappa_share_leave(const KappaFill *other, const List *runnable);

/*
 * Take ranges of a version, some of them at most, and of others what goes on at
 * the same offsets of the same foreign table.  Returns KappaFillShares in a fixed
 * order, with the version among them; NIL if there is nothing to do.  runnable:
 * of KappaVersion, with the version among them.  Needs a transaction, whose end
 * ends it; tables are locked by kappa_share_enter().
 */
extern List *kappa_share_claim(const KappaFill *fill, const List *runnable, int max);

#endif /* KAPPA_FILL_SHARE_H */

/*-------------------------------------------------------------------------
 *
 * rebuild_switch.h
 *	  Make a rebuilt version of a view the live one
 *
 * IDENTIFICATION
 *	  src/rebuild_switch.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_REBUILD_SWITCH_H
#define KAPPA_REBUILD_SWITCH_H

#include "catalog.h"

/*
 * Why the files of a view's table should not just be exchanged: somebody would
 * miss the change.  Static text such as "it is published", or NULL.
 */
extern const char *kappa_rebuild_needs_rows(Oid view);

/*
 * Why the files of two tables cannot be exchanged, as it goes on after "the
 * reason is that"; NULL if they can.  The caller has locked both.
 */
extern char *kappa_rebuild_describe_obstacle(Oid target, Oid shadow);

typedef enum KappaSwitchResult
{
	KAPPA_SWITCH_DONE,
	KAPPA_SWITCH_LOCKED,  /* a lock was not to be had in time */
	KAPPA_SWITCH_CHANGED, /* not as before: the view has got other indexes, or been stopped, ... */
} KappaSwitchResult;

/*
 * Make the version "to" of a view live instead of "from", in the caller's
 * transaction, which should end soon: rows, kappa's tables.  The old version is
 * kept as the previous one (rebuild_previous.h), or what belongs to it alone is
 * dropped.  The caller sees to it that both stand
 * at the same offsets (or the old one does not run).  kind is one of
 * KAPPA_SWITCH_STORAGE and KAPPA_SWITCH_ROWS.  After anything but DONE the
 * transaction may go on; nothing has changed.  LOCKED: *blocker is a process
 * that holds a lock, or 0.
 */
extern KappaSwitchResult kappa_rebuild_switch(const KappaView *view, const KappaVersion *from,
											  const KappaVersion *to, const char *kind,
											  int lock_timeout_ms, int *blocker);

/*
 * Drop a version that is not live, and its objects.  Locks the objects first,
 * in the order in which a worker's transaction meets them.  False, with nothing
 * done, if the version is live by then, or gone.
 */
extern bool kappa_rebuild_drop_version(const KappaVersion *version);

#endif /* KAPPA_REBUILD_SWITCH_H */

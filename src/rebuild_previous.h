/*-------------------------------------------------------------------------
 *
 * rebuild_previous.h
 *	  Keep the version before the last switch, and bring it back
 *
 * A previous version is a version that is not live, has no rebuild under way,
 * and has a time until which it is kept (KappaVersion.kept_until).  Workers
 * apply messages to it as to any version.
 *
 * IDENTIFICATION
 *	  src/rebuild_previous.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_REBUILD_PREVIOUS_H
#define KAPPA_REBUILD_PREVIOUS_H

#include "catalog.h"

/* The previous version of a view, or NULL if none is kept. */
extern KappaVersion *kappa_previous_get(Oid view);

/*
 * The table in which the version "from" is kept after a switch to "to", which
 * the caller is about to make, under its locks, but with the columns that the
 * view has now; InvalidOid if it is not kept.
 * A switch by storage leaves the old rows in the table of "to"; for one by rows
 * they are copied here.
 */
extern Oid kappa_previous_prepare(const KappaView *view, const KappaVersion *from,
								  const KappaVersion *to, bool storage);

/* The switch is made: make "from" the previous version. */
extern void kappa_previous_keep(const KappaView *view, const KappaVersion *from, Oid table);

/*
 * Drop the previous version of a view, and record why; false if there is none.
 * The caller checks permissions.
 */
extern bool kappa_previous_drop(Oid view, const char *why);

#endif /* KAPPA_REBUILD_PREVIOUS_H */

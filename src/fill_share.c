/*-------------------------------------------------------------------------
 *
 * fill_share.c
 *	  Versions that read the log together
 *
 * Each version has ranges of its own, which move in the transaction that writes
 * what was read of them.  So nothing has to be kept about who reads with whom:
 * whoever takes a range takes along the versions that go on at the same place,
 * if nobody has them and nothing speaks against it.  A version that is not
 * taken along, because it is paused, waits after an error, or somebody has locked
 * its view, goes its own way from there, as does one that begins later.
 *
 * IDENTIFICATION
 *	  src/fill_share.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/lmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "fill_share.h"
#include "shmem.h"

static bool
is_same(const KappaFill *a, const KappaFill *b)
{
	return a->view == b->view && a->version == b->version;
}

/* The version, if it is among those that should run. */
static const KappaVersion *
find_runnable(const KappaFill *fill, const List *runnable)
{
	ListCell *lc;

	foreach(lc, runnable)
	{
		const KappaVersion *version = lfirst(lc);

		if (version->view == fill->view && version->version == fill->version)
			return version;
	}
	return NULL;
}

bool
kappa_share_is_runnable(const KappaFill *fill, const List *runnable)
{
	return find_runnable(fill, runnable) != NULL;
}

/* Whether it has failed, and is not to be tried again yet. */
static bool
is_waiting(const KappaFill *fill)
{
	KappaViewPlace *places;
	int n = kappa_shmem_get_places(&places);

	for (int i = 0; i < n; i++)
		if (places[i].view == fill->view && places[i].version == fill->version)
			return places[i].failing && places[i].retry_at > GetCurrentTimestamp();
	return true;
}

/* Of a version's own tables the locks are waited for. */
static bool
lock_tables(const KappaVersion *version, bool wait)
{
	if (!wait)
		return ConditionalLockRelationOid(version->view, AccessShareLock) &&
			   ConditionalLockRelationOid(version->target, AccessShareLock);
	LockRelationOid(version->view, AccessShareLock);
	LockRelationOid(version->target, AccessShareLock);
	return true;
}

bool
kappa_share_enter(const KappaFill *fill, const KappaFill *other, const List *runnable)
{
	const KappaVersion *version = find_runnable(other, runnable);

	if (is_same(other, fill))
		return lock_tables(version, true);
	return version != NULL && !is_waiting(other) && lock_tables(version, false);
}

void
kappa_share_leave(const KappaFill *other, const List *runnable)
{
	const KappaVersion *version = find_runnable(other, runnable);

	UnlockRelationOid(version->target, AccessShareLock);
	UnlockRelationOid(version->view, AccessShareLock);
}

List *
kappa_share_claim(const KappaFill *fill, const List *runnable, int max)
{
	List *fills = NIL;
	ListCell *lc;

	foreach(lc, kappa_fill_list_alike(fill))
		if (kappa_share_enter(fill, lfirst(lc), runnable))
			fills = lappend(fills, lfirst(lc));
	return fills == NIL ? NIL : kappa_fill_claim(fill, fills, max);
}

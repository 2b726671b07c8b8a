/*-------------------------------------------------------------------------
 *
 * swap.c
 *	  Exchange the storage of two tables
 *
 * A table's rows are where pg_class.relfilenode says.  Exchanging it between
 * two tables of the same layout, and between their indexes pair by pair,
 * replaces all rows in a transaction that takes milliseconds whatever the
 * size, while the table keeps its OID and with it its grants, views, triggers
 * and comments.  REFRESH MATERIALIZED VIEW and VACUUM FULL end likewise, but
 * rebuild all indexes while nobody may read; here they are built beforehand.
 *
 * Toast tables change owners as they are, OIDs included, because every toasted
 * value carries the OID of the table that its parts are in.
 *
 * IDENTIFICATION
 *	  src/swap.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/toast_internals.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "commands/tablecmds.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/predicate.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/sinvaladt.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/syscache.h"

#include "compat.h"
#include "swap.h"
#include "swap_index.h"

#define EXCHANGE(type, a, b) \
	do \
	{ \
		type exchange_tmp = (a); \
		(a) = (b); \
		(b) = exchange_tmp; \
	} while (0)

/* ---- locks ---- */

static void
set_timeout(const char *name, int ms)
{
	char value[32];

	snprintf(value, sizeof(value), "%dms", Max(ms, 1));
	(void) set_config_option(name, value, PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Lock a table with all that will be exchanged with it.  Its indexes and its
 * toast table may be locked on their own, by autovacuum for one.  False if it
 * has been dropped.
 */
static bool
lock_with_parts(Oid relid)
{
	Relation rel = try_relation_open(relid, AccessExclusiveLock);
	Oid toastid;
	ListCell *lc;

	if (rel == NULL)
		return false;
	toastid = rel->rd_rel->reltoastrelid;
	foreach(lc, RelationGetIndexList(rel))
		LockRelationOid(lfirst_oid(lc), AccessExclusiveLock);
	if (OidIsValid(toastid))
	{
		LockRelationOid(toastid, AccessExclusiveLock);
		(void) toast_get_valid_index(toastid, AccessExclusiveLock);
	}
	relation_close(rel, NoLock);
	return true;
}

/*
 * An autovacuum gives way to whoever waits for its lock for deadlock_timeout,
 * which is far longer than readers shall queue behind us; so that is made
 * shorter, too.  Somebody who drops the view may wait for a row of kappa's that
 * the caller has locked: that deadlock is but a lock that is not to be had.
 */
bool
kappa_swap_lock(List *relids, int lock_timeout_ms)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool locked = true;
	ListCell *lc;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		int guc_level = NewGUCNestLevel();

		set_timeout("lock_timeout", lock_timeout_ms);
		set_timeout("deadlock_timeout", lock_timeout_ms / 2);
		foreach(lc, relids)
			locked = lock_with_parts(lfirst_oid(lc)) && locked;
		AtEOXact_GUC(true, guc_level);
		if (locked)
			ReleaseCurrentSubTransaction();
		else
			RollbackAndReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE &&
			error->sqlerrcode != ERRCODE_T_R_DEADLOCK_DETECTED)
			PG_RE_THROW();
		FlushErrorState();
		FreeErrorData(error);
		RollbackAndReleaseCurrentSubTransaction();
		locked = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return locked;
}

int
kappa_swap_get_blocker(List *relids)
{
	ListCell *lc;

	foreach(lc, relids)
	{
		LOCKTAG tag;
		VirtualTransactionId *holders;
		int n;

		SET_LOCKTAG_RELATION(tag, MyDatabaseId, lfirst_oid(lc));
		holders = GetLockConflicts(&tag, AccessExclusiveLock, &n);
		for (int i = 0; i < n; i++)
		{
			PGPROC *proc = ProcNumberGetProc(holders[i].procNumber);

			if (proc != NULL)
				return proc->pid;
		}
	}
	return 0;
}

/* ---- checks ---- */

/*
 * True if a row stored for the one is the same row when read as the other's.
 * A value that is missing from old rows (a column added with a default) stands
 * in the catalog and does not move: fine for the target, whose rows leave, but
 * not for the shadow.
 */
static bool
same_column(Form_pg_attribute target, Form_pg_attribute shadow)
{
	return target->attlen == shadow->attlen &&
		   target->attbyval == shadow->attbyval &&
		   target->attalign == shadow->attalign &&
		   target->attgenerated == shadow->attgenerated &&
		   !shadow->atthasmissing &&
		   (target->attisdropped || shadow->attisdropped ||
			(target->atttypid == shadow->atttypid &&
			 target->atttypmod == shadow->atttypmod &&
			 target->attcollation == shadow->attcollation &&
			 strcmp(NameStr(target->attname), NameStr(shadow->attname)) == 0 &&
			 (shadow->attnotnull || !target->attnotnull)));
}

/*
 * later: the target has yet to lose the columns that the shadow has lost, and
 * to get those that it has beyond.
 */
static bool
same_columns(TupleDesc target, TupleDesc shadow, bool later)
{
	if (later ? target->natts > shadow->natts : target->natts != shadow->natts)
		return false;
	for (int i = 0; i < target->natts; i++)
	{
		Form_pg_attribute first = TupleDescAttr(target, i);
		Form_pg_attribute second = TupleDescAttr(shadow, i);

		if (first->attisdropped != second->attisdropped &&
			!(later && second->attisdropped))
			return false;
		if (!same_column(first, second))
			return false;
	}
	for (int i = target->natts; i < shadow->natts; i++)
	{
		if (TupleDescAttr(shadow, i)->attisdropped)
			return false;
	}
	return true;
}

static const char *
get_difference(Relation target, Relation shadow, bool later)
{
	Form_pg_class first = target->rd_rel;
	Form_pg_class second = shadow->rd_rel;

	if (first->relkind != RELKIND_RELATION || second->relkind != RELKIND_RELATION)
		return "kind, or are not tables";
	if (first->relam != second->relam)
		return "access method";
	if (first->relpersistence != second->relpersistence)
		return "persistence";
	if (first->relowner != second->relowner)
		return "owner";
	if (!same_columns(RelationGetDescr(target), RelationGetDescr(shadow), later))
		return "columns";
	return NULL;
}

const char *
kappa_swap_get_difference(Oid target, Oid shadow)
{
	Relation target_rel = table_open(target, NoLock);
	Relation shadow_rel = table_open(shadow, NoLock);
	const char *difference = get_difference(target_rel, shadow_rel, true);

	table_close(shadow_rel, NoLock);
	table_close(target_rel, NoLock);
	return difference;
}

static void
check_same_layout(Relation target, Relation shadow)
{
	const char *difference = get_difference(target, shadow, false);

	if (difference != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot exchange the storage of \"%s\" and \"%s\"",
						RelationGetRelationName(target),
						RelationGetRelationName(shadow)),
				 errdetail("The tables differ in %s.", difference)));
}

/*
 * Under wal_level = minimal, files made in this transaction are synced at
 * commit by the relation that they belong to, instead of being logged; they
 * must not change hands before.
 */
static void
check_not_new(Relation rel)
{
	if (rel->rd_createSubid != InvalidSubTransactionId ||
		rel->rd_firstRelfilelocatorSubid != InvalidSubTransactionId)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot exchange the storage of \"%s\" in the transaction that made it",
						RelationGetRelationName(rel))));
}

/* ---- exchange ---- */

/*
 * Exchange what belongs to the files, in two rows of pg_class.  The updates
 * send the invalidations; nobody else can look at the relations now.
 */
static void
exchange_files(Relation pg_class, Oid target, Oid shadow)
{
	HeapTuple tuple1 = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(target));
	HeapTuple tuple2 = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(shadow));
	Form_pg_class rel1;
	Form_pg_class rel2;

	if (!HeapTupleIsValid(tuple1) || !HeapTupleIsValid(tuple2))
		elog(ERROR, "cache lookup failed for relation %u or %u", target, shadow);
	rel1 = (Form_pg_class) GETSTRUCT(tuple1);
	rel2 = (Form_pg_class) GETSTRUCT(tuple2);
	if (rel1->relfilenode == 0 || rel2->relfilenode == 0)
		elog(ERROR, "relation %u or %u has no file of its own", target, shadow);

	EXCHANGE(Oid, rel1->relfilenode, rel2->relfilenode);
	EXCHANGE(Oid, rel1->reltablespace, rel2->reltablespace);
	EXCHANGE(Oid, rel1->reltoastrelid, rel2->reltoastrelid);
	EXCHANGE(int32, rel1->relpages, rel2->relpages);
	EXCHANGE(float4, rel1->reltuples, rel2->reltuples);
	EXCHANGE(int32, rel1->relallvisible, rel2->relallvisible);
#ifdef KAPPA_HAVE_RELALLFROZEN
	EXCHANGE(int32, rel1->relallfrozen, rel2->relallfrozen);
#endif
	EXCHANGE(TransactionId, rel1->relfrozenxid, rel2->relfrozenxid);
	EXCHANGE(MultiXactId, rel1->relminmxid, rel2->relminmxid);

	CatalogTupleUpdate(pg_class, &tuple1->t_self, tuple1);
	CatalogTupleUpdate(pg_class, &tuple2->t_self, tuple2);
	heap_freetuple(tuple1);
	heap_freetuple(tuple2);
}

/* Make a toast table internal to its new owner. */
static void
set_toast_owner(Oid toastid, Oid owner)
{
	ObjectAddress toast;
	ObjectAddress table;

	if (!OidIsValid(toastid))
		return;
	ObjectAddressSet(toast, RelationRelationId, toastid);
	ObjectAddressSet(table, RelationRelationId, owner);
	(void) deleteDependencyRecordsFor(RelationRelationId, toastid, false);
	recordDependencyOn(&toast, &table, DEPENDENCY_INTERNAL);
}

static void
rename_toast(Oid toastid, const char *name)
{
	char *index_name = psprintf("%s_index", name);

	RenameRelationInternal(toastid, name, true, false);
	RenameRelationInternal(toast_get_valid_index(toastid, AccessExclusiveLock),
						   index_name, true, true);
	CommandCounterIncrement();
}

/* The toast tables have new owners: say so in pg_depend and in their names. */
static void
adopt_toast(Oid target, Oid target_toast, Oid shadow, Oid shadow_toast)
{
	set_toast_owner(target_toast, target);
	set_toast_owner(shadow_toast, shadow);
	CommandCounterIncrement();

	/* Both names are taken while there are two: make room first. */
	if (OidIsValid(shadow_toast))
		rename_toast(shadow_toast, psprintf("pg_toast_%u_kappa", shadow));
	if (OidIsValid(target_toast))
		rename_toast(target_toast, psprintf("pg_toast_%u", target));
	if (OidIsValid(shadow_toast))
		rename_toast(shadow_toast, psprintf("pg_toast_%u", shadow));
}

/*
 * Storage parameters of a toast table (toast.autovacuum_enabled, ...) were
 * given to the table that it belonged to: they go back.
 */
static void
exchange_toast_options(Relation pg_class, Oid first, Oid second)
{
	Oid toastids[2] = { first, second };
	HeapTuple tuples[2];
	Datum options[2];
	bool nulls[2];

	if (!OidIsValid(first) || !OidIsValid(second))
		return;
	for (int i = 0; i < 2; i++)
	{
		tuples[i] = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(toastids[i]));
		if (!HeapTupleIsValid(tuples[i]))
			elog(ERROR, "cache lookup failed for relation %u", toastids[i]);
		options[i] = SysCacheGetAttr(RELOID, tuples[i],
									 Anum_pg_class_reloptions, &nulls[i]);
	}
	for (int i = 0; i < 2; i++)
	{
		Datum values[Natts_pg_class] = { 0 };
		bool isnull[Natts_pg_class] = { 0 };
		bool replace[Natts_pg_class] = { 0 };
		HeapTuple tuple;

		values[Anum_pg_class_reloptions - 1] = options[1 - i];
		isnull[Anum_pg_class_reloptions - 1] = nulls[1 - i];
		replace[Anum_pg_class_reloptions - 1] = true;
		tuple = heap_modify_tuple(tuples[i], RelationGetDescr(pg_class),
								  values, isnull, replace);
		CatalogTupleUpdate(pg_class, &tuple->t_self, tuple);
	}
	CommandCounterIncrement();
}

/*
 * An index that was built while old versions of its rows were still to be seen
 * is marked in pg_index as not for older snapshots (indcheckxmin).  The mark
 * stays with the target's index, whose files leave, and with the shadow's,
 * which takes them: where it is needed no more it only makes the planner
 * careful for a while, and where it would be needed the caller has waited
 * until those snapshots are gone.
 */
static void
exchange_all(Relation target, Relation shadow, KappaIndexMatch *match)
{
	Relation pg_class = table_open(RelationRelationId, RowExclusiveLock);
	Oid targetid = RelationGetRelid(target);
	Oid shadowid = RelationGetRelid(shadow);
	Oid target_toast = target->rd_rel->reltoastrelid;
	Oid shadow_toast = shadow->rd_rel->reltoastrelid;
	ListCell *lc1;
	ListCell *lc2;

	RelationCloseSmgrByOid(targetid);
	RelationCloseSmgrByOid(shadowid);
	exchange_files(pg_class, targetid, shadowid);
	forboth(lc1, match->target, lc2, match->shadow)
	{
		RelationCloseSmgrByOid(lfirst_oid(lc1));
		RelationCloseSmgrByOid(lfirst_oid(lc2));
		exchange_files(pg_class, lfirst_oid(lc1), lfirst_oid(lc2));
	}
	CommandCounterIncrement();

	exchange_toast_options(pg_class, target_toast, shadow_toast);
	adopt_toast(targetid, shadow_toast, shadowid, target_toast);
	table_close(pg_class, RowExclusiveLock);
}

bool
kappa_swap_storage(Oid target, Oid shadow)
{
	Relation target_rel;
	Relation shadow_rel;
	KappaIndexMatch *match;
	bool indexes_equal;

	target_rel = table_open(target, NoLock);
	shadow_rel = table_open(shadow, NoLock);
	CheckTableNotInUse(target_rel, "switch");
	CheckTableNotInUse(shadow_rel, "switch");
	check_same_layout(target_rel, shadow_rel);
	check_not_new(target_rel);
	check_not_new(shadow_rel);

	match = kappa_swap_match_indexes(target_rel, shadow_rel);
	indexes_equal = match->only_target == NIL && match->only_shadow == NIL;
	if (indexes_equal)
	{
		/*
		 * Predicate locks name places in files.  Turn them into locks on the
		 * whole tables, as every rewrite of a table does.
		 */
		TransferPredicateLocksToHeapRelation(target_rel);
		TransferPredicateLocksToHeapRelation(shadow_rel);
		exchange_all(target_rel, shadow_rel, match);
	}
	table_close(shadow_rel, NoLock);
	table_close(target_rel, NoLock);
	return indexes_equal;
}

/* ---- old snapshots ---- */

/*
 * As CREATE INDEX CONCURRENTLY: vacuum looks at no rows through a snapshot, and
 * neither does an index build on another table that has no expressions.
 */
static VirtualTransactionId *
get_vxids(TransactionId limit, int *n)
{
	return GetCurrentVirtualXIDs(limit, true, false,
								 PROC_IS_AUTOVACUUM | PROC_IN_VACUUM | PROC_IN_SAFE_IC,
								 n);
}

static bool
has_vxid(const VirtualTransactionId *vxids, int n, VirtualTransactionId vxid)
{
	for (int i = 0; i < n; i++)
	{
		if (VirtualTransactionIdEquals(vxids[i], vxid))
			return true;
	}
	return false;
}

/*
 * Prepared transactions hold locks but no snapshot.
 *
 * XXX A transaction that imports one of these snapshots later
 * (pg_export_snapshot) is waited for only as long as the exporting one lives.
 * pg_dump's does; core's concurrent index builds have the same gap.
 */
KappaSnapshots *
kappa_swap_get_snapshots(void)
{
	KappaSnapshots *snapshots = palloc(sizeof(KappaSnapshots));

	snapshots->limit = ReadNextTransactionId();
	snapshots->vxids = get_vxids(snapshots->limit, &snapshots->nvxids);
	return snapshots;
}

/*
 * Drop from the list whatever has ended or has moved on to a newer snapshot.
 * New transactions are not added, however old the oldest xid that they saw
 * running: all of them see what was committed before the list was made.
 */
static void
forget_gone(KappaSnapshots *snapshots)
{
	int ncurrent;
	VirtualTransactionId *current = get_vxids(snapshots->limit, &ncurrent);
	int kept = 0;

	for (int i = 0; i < snapshots->nvxids; i++)
	{
		if (has_vxid(current, ncurrent, snapshots->vxids[i]))
			snapshots->vxids[kept++] = snapshots->vxids[i];
	}
	snapshots->nvxids = kept;
	pfree(current);
}

bool
kappa_swap_snapshots_gone(KappaSnapshots *snapshots, const LOCKTAG *ignored,
						  int *pid)
{
	VirtualTransactionId *waiters;
	int nwaiters;
	bool gone = true;

	forget_gone(snapshots);
	*pid = 0;
	if (snapshots->nvxids == 0)
		return true;

	waiters = GetLockConflicts(ignored, AccessExclusiveLock, &nwaiters);
	for (int i = 0; i < snapshots->nvxids && gone; i++)
	{
		PGPROC *proc;

		if (has_vxid(waiters, nwaiters, snapshots->vxids[i]))
			continue;
		proc = ProcNumberGetProc(snapshots->vxids[i].procNumber);
		*pid = proc == NULL ? 0 : proc->pid;
		gone = false;
	}
	pfree(waiters);
	return gone;
}

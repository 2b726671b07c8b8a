/*-------------------------------------------------------------------------
 *
 * rebuild_diff.c
 *	  Look at a view's next or previous version, and compare it with the present one
 *
 * A version that has joined the live one's worker moves in the same
 * transactions, so one snapshot shows the rows of both at the same offsets:
 * what differs then is due to the versions, and not to their positions.
 *
 * IDENTIFICATION
 *	  src/rebuild_diff.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "definition.h"
#include "rebuild_previous.h"
#include "rebuild_run.h"
#include "verify_query.h"
#include "view_commands.h"

PG_FUNCTION_INFO_V1(kappa_sql_version_table);
PG_FUNCTION_INFO_V1(kappa_sql_diff_rebuild);
PG_FUNCTION_INFO_V1(kappa_sql_diff_rebuild_summary);

/* Two versions under comparison; palloc'd in the context of the call. */
typedef struct Diff
{
	KappaView *view;
	KappaVersion *old;
	KappaVersion *new;
	char *name; /* for messages */
	KappaVersionComparison comparison;
} Diff;

/* ---- where a version's rows are ---- */

/*
 * kappa.version_table(view regclass, version integer) -> regclass.  Says no
 * more than a name; whether the caller may read the table is its owner's
 * affair.
 */
Datum
kappa_sql_version_table(PG_FUNCTION_ARGS)
{
	Oid relid = PG_GETARG_OID(0);
	int32 number = PG_GETARG_INT32(1);
	KappaVersion *version;

	if (kappa_catalog_get_view(relid) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("relation with OID %u is not a view of kappa", relid)));
	version = kappa_catalog_get_version(relid, number);
	if (version == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("view \"%s\" has no version %d", get_rel_name(relid), number),
				 errdetail("Its live version is %d.", kappa_catalog_get_view(relid)->version),
				 errhint("A rebuild's version is there from kappa.rebuild() on, and the one before the switch for kappa.keep_previous.")));
	PG_RETURN_OID(version->target);
}

/* ---- what is compared ---- */

/*
 * The version of the rebuild under way, or else the previous one, whose table
 * is locked, so that it is neither switched nor dropped until the end of the
 * transaction.
 */
static KappaVersion *
lock_other_version(Oid view)
{
	KappaRebuildRun *run = kappa_rebuild_run_get(view);
	KappaVersion *version;

	if (run != NULL && !run->finished)
		version = kappa_catalog_get_version(view, run->version);
	else
		version = kappa_previous_get(view);
	if (version != NULL)
	{
		LockRelationOid(version->target, AccessShareLock);
		version = kappa_catalog_get_version(view, version->version);
	}
	if (version == NULL || version->live)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("view \"%s\" is not being rebuilt, and has no previous version", get_rel_name(view)),
				 errhint("kappa.rebuild() with switch => 'manual' makes a version that waits to be compared.")));
	if (!OidIsValid(version->definition))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("definition of version %d of view \"%s\" was dropped",
						version->version, get_rel_name(view))));
	return version;
}

/* How far a version has read a partition, for people. */
static char *
describe_offset(const KappaPosition *position, int p)
{
	if (position == NULL || p >= position->npartitions || position->next_offset[p] < 0)
		return pstrdup("not read yet");
	return psprintf(INT64_FORMAT, position->next_offset[p]);
}

static bool
same_offset(const KappaPosition *a, const KappaPosition *b, int p)
{
	return a != NULL && b != NULL && p < a->npartitions && p < b->npartitions &&
		   a->next_offset[p] == b->next_offset[p];
}

static void
report_different_offsets(const Diff *diff, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("versions %d and %d of view \"%s\" do not stand at the same offsets",
					diff->old->version, diff->new->version, diff->name),
			 errdetail("%s", detail),
			 diff->view->state != KAPPA_VIEW_RUNNING
				 ? errhint("The view does not run, and so does not move with its other version.  Call kappa.resume_view() if it is only paused.")
			 : diff->old->kept_until != 0
				 ? errhint("kappa.events tells whether one of them has failed.")
				 : errhint("They do from the phase \"waiting for switch_rebuild\" of kappa.rebuilds on, which comes with switch => 'manual'.")));
}

/* As the active snapshot has them. */
static void
check_positions(const Diff *diff)
{
	Snapshot snapshot = GetActiveSnapshot();
	KappaPosition *old = kappa_catalog_get_position_at(diff->view->view, diff->old->version,
													   snapshot);
	KappaPosition *new = kappa_catalog_get_position_at(diff->view->view, diff->new->version,
													   snapshot);
	int n = Max(old == NULL ? 0 : old->npartitions, new == NULL ? 0 : new->npartitions);

	if (n == 0)
		report_different_offsets(diff, "They have not read anything yet.");
	if (old != NULL && new != NULL && strcmp(old->topic, new->topic) != 0)
		report_different_offsets(diff, psprintf("They read different topics, \"%s\" and \"%s\".",
												old->topic, new->topic));
	for (int p = 0; p < n; p++)
	{
		if (!same_offset(old, new, p))
			report_different_offsets(diff,
									 psprintf("The next offset of partition %d: %s and %s.",
											  p, describe_offset(old, p),
											  describe_offset(new, p)));
	}
	if (memcmp(old->start_offset, new->start_offset, n * sizeof(int64)) != 0)
		ereport(NOTICE,
				(errmsg("versions %d and %d of view \"%s\" do not start at the same offsets",
						diff->old->version, diff->new->version, diff->name),
				 errdetail("Differences may be due to messages that only one of them has read.")));
}

/* ---- columns ---- */

static KappaOutput *
find_output(const KappaShape *shape, const KappaOutput *like)
{
	ListCell *lc;

	foreach(lc, shape->outputs)
	{
		KappaOutput *output = lfirst(lc);

		if (strcmp(output->name, like->name) == 0 && output->type == like->type &&
			output->collation == like->collation)
			return output;
	}
	return NULL;
}

/* Names of the outputs of one shape that the other one does not have. */
static List *
list_missing(const KappaShape *shape, const KappaShape *other)
{
	List *names = NIL;
	ListCell *lc;

	foreach(lc, shape->outputs)
	{
		KappaOutput *output = lfirst(lc);

		if (find_output(other, output) == NULL)
			names = lappend(names, output->name);
	}
	return names;
}

/* Does a column of both belong to the key in one of them only, or in both? */
static bool
same_key(const KappaShape *old, const KappaShape *new)
{
	ListCell *lc;

	if (list_length(old->key) != list_length(new->key) ||
		(old->key == NIL && old->root->kind != new->root->kind))
		return false;
	foreach(lc, new->key)
	{
		KappaOutput *output = find_output(old, list_nth(new->outputs, lfirst_int(lc) - 1));

		if (output == NULL || !list_member_int(old->key, output->resno))
			return false;
	}
	return true;
}

/*
 * The shape of what both versions have: their common columns, and their key if
 * it is the same.  Without it nothing tells which row has become which, and
 * rows are compared as those of a bare scan.
 */
static KappaShape *
make_common_shape(const Diff *diff, const KappaShape *old, const KappaShape *new)
{
	KappaShape *shape = palloc0(sizeof(KappaShape));
	bool paired = same_key(old, new);
	ListCell *lc;

	shape->root = paired ? new->root : new->scan;
	shape->scan = new->scan;
	foreach(lc, new->outputs)
	{
		KappaOutput *output = lfirst(lc);
		KappaOutput *common;

		if (find_output(old, output) == NULL)
			continue;
		common = palloc(sizeof(KappaOutput));
		*common = *output;
		common->resno = list_length(shape->outputs) + 1;
		shape->outputs = lappend(shape->outputs, common);
		if (paired && list_member_int(new->key, output->resno))
			shape->key = lappend_int(shape->key, common->resno);
	}
	if (shape->outputs == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("versions %d and %d of view \"%s\" have no column in common",
						diff->old->version, diff->new->version, diff->name)));
	if (!paired)
		ereport(NOTICE,
				(errmsg("rows of versions %d and %d of view \"%s\" are not paired",
						diff->old->version, diff->new->version, diff->name),
				 errdetail("The versions have different keys: a row that has changed is listed as removed and added.")));
	return shape;
}

static char *
make_select(const KappaShape *shape, Oid relid)
{
	StringInfoData buf;
	ListCell *lc;

	initStringInfo(&buf);
	foreach(lc, shape->outputs)
		appendStringInfo(&buf, "%s%s", buf.len == 0 ? "SELECT " : ", ",
						 quote_identifier(((KappaOutput *) lfirst(lc))->name));
	appendStringInfo(&buf, " FROM ONLY %s", kappa_definition_relation_name(relid));
	return buf.data;
}

static KappaShape *
get_shape(const KappaVersion *version)
{
	return kappa_analyze_query(kappa_definition_get_query(version->definition), NULL, false);
}

/* ---- comparing ---- */

/* Everything up to the comparison itself; leaves a snapshot pushed. */
static Diff *
begin_diff(Oid relid)
{
	Diff *diff = palloc0(sizeof(Diff));
	KappaComparison *rows = &diff->comparison.rows;
	KappaVersion *other;
	KappaVersion *live;
	KappaShape *old;
	KappaShape *new;

	diff->view = kappa_view_require_owned(relid, AccessShareLock);
	diff->name = get_rel_name(relid);
	other = lock_other_version(relid);
	live = kappa_view_lock_live_version(relid);
	diff->old = other->kept_until != 0 ? other : live;
	diff->new = other->kept_until != 0 ? live : other;
	if (!OidIsValid(live->definition))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("definition of view \"%s\" was dropped", diff->name)));
	old = get_shape(diff->old);
	new = get_shape(diff->new);
	rows->shape = make_common_shape(diff, old, new);
	rows->query = make_select(rows->shape, diff->new->target);
	rows->table = kappa_definition_relation_name(diff->old->target);
	diff->comparison.removed = list_missing(old, new);
	diff->comparison.added = list_missing(new, old);

	PushActiveSnapshot(GetTransactionSnapshot());
	check_positions(diff);
	return diff;
}

/* Returns the number of lines. */
static uint64
run_diff(const Diff *diff, const char *sql, FunctionCallInfo fcinfo)
{
	uint64 lines;

	InitMaterializedSRF(fcinfo, 0);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	lines = kappa_definition_select_as_owner(diff->view->owner, diff->new->settings, NULL, sql,
											 (ReturnSetInfo *) fcinfo->resultinfo);
	SPI_finish();
	PopActiveSnapshot();
	return lines;
}

/*
 * kappa.diff_rebuild(view regclass, max_rows bigint) -> setof (difference text,
 * copies bigint, columns text[], old json, new json)
 */
Datum
kappa_sql_diff_rebuild(PG_FUNCTION_ARGS)
{
	int64 max_rows = PG_GETARG_INT64(1);
	Diff *diff;
	uint64 lines;

	if (max_rows < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_rows must not be negative")));
	diff = begin_diff(PG_GETARG_OID(0));
	lines = run_diff(diff, kappa_verify_version_rows_query(&diff->comparison.rows, max_rows),
					 fcinfo);
	if (lines == max_rows && max_rows > 0)
		ereport(NOTICE,
				(errmsg("only the first " INT64_FORMAT " differences are listed", max_rows),
				 errhint("kappa.diff_rebuild_summary() counts the rows that differ; max_rows asks for more.")));
	return (Datum) 0;
}

/*
 * kappa.diff_rebuild_summary(view regclass) -> setof (difference text,
 * column_name text, rows bigint, percent numeric)
 */
Datum
kappa_sql_diff_rebuild_summary(PG_FUNCTION_ARGS)
{
	Diff *diff = begin_diff(PG_GETARG_OID(0));

	(void) run_diff(diff, kappa_verify_version_summary_query(&diff->comparison), fcinfo);
	return (Datum) 0;
}

/*-------------------------------------------------------------------------
 *
 * rebuild_switch.c
 *	  Make a rebuilt version of a view the live one
 *
 * Two ways.  "storage" exchanges the files of the view's table and the shadow
 * in milliseconds, but logical decoding, triggers and constraints do not see
 * it.  "rows" changes what differs with ordinary statements, in one
 * transaction, which everybody sees.
 *
 * IDENTIFICATION
 *	  src/rebuild_switch.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/heap.h"
#include "catalog/pg_class.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "definition.h"
#include "fault.h"
#include "fill_run.h"
#include "guard.h"
#include "rebuild_columns.h"
#include "rebuild_previous.h"
#include "rebuild_run.h"
#include "rebuild_switch.h"
#include "shmem.h"
#include "swap.h"
#include "swap_index.h"
#include "version_history.h"

/* Does a query over the catalogs, with the view as $1, return a row? */
static bool
exists(const char *sql, Oid view)
{
	Oid types[] = { OIDOID };
	Datum values[] = { ObjectIdGetDatum(view) };

	if (SPI_execute_with_args(sql, 1, types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not run: %s", sql);
	return SPI_processed > 0;
}

/*
 * Constraints count, too: the rows of the shadow were never checked against
 * them.
 */
const char *
kappa_rebuild_needs_rows(Oid view)
{
	static const struct
	{
		const char *reason;
		const char *sql;
	} cases[] = {
		{ "it is published",
		  "SELECT FROM pg_publication p WHERE puballtables"
		  " OR EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND prrelid = $1)"
		  " OR EXISTS (SELECT FROM pg_publication_namespace n JOIN pg_class c ON relnamespace = pnnspid"
		  " WHERE n.pnpubid = p.oid AND c.oid = $1)" },
		{ "it has triggers",
		  "SELECT FROM pg_trigger t JOIN pg_proc f ON f.oid = tgfoid"
		  " WHERE tgrelid = $1 AND NOT tgisinternal AND prosrc <> 'kappa_sql_guard'" },
		{ "it has foreign keys or check constraints, or is referenced by some",
		  "SELECT FROM pg_constraint WHERE contype IN ('f', 'c') AND $1 IN (conrelid, confrelid)" },
	};
	KappaCatalogScope scope;
	const char *reason = NULL;

	kappa_catalog_enter(&scope);
	for (int i = 0; i < lengthof(cases) && reason == NULL; i++)
	{
		if (exists(cases[i].sql, view))
			reason = cases[i].reason;
	}
	kappa_catalog_leave(&scope);
	return reason;
}

char *
kappa_rebuild_describe_obstacle(Oid target, Oid shadow)
{
	const char *difference = kappa_swap_get_difference(target, shadow);

	if (difference != NULL)
		return psprintf("its table and the new one differ in %s", difference);
	if (kappa_swap_has_row_index(target))
		return pstrdup("it has an index on whole rows");
	return NULL;
}

/* ---- rows ---- */

/* What the statements that bring one table's rows into another are made of. */
typedef struct RowSql
{
	char *target; /* qualified names */
	char *shadow;
	StringInfoData columns;  /* all, as a list */
	StringInfoData identity; /* expressions that tell rows apart: the key, or everything */
	StringInfoData values;   /* columns beside the key, as t.x and s.x in rows */
	StringInfoData new_values;
	StringInfoData assignments; /* x = s.x */
} RowSql;

static void
append_item(StringInfo list, const char *prefix, const char *item)
{
	appendStringInfo(list, "%s%s%s", list->len > 0 ? ", " : "", prefix, item);
}

/* A column as something that rows can be grouped by; types that cannot be are compared as text. */
static const char *
groupable(Form_pg_attribute column)
{
	const char *name = quote_identifier(NameStr(column->attname));
	TypeCacheEntry *type = lookup_type_cache(column->atttypid,
											 TYPECACHE_EQ_OPR | TYPECACHE_LT_OPR);

	if (OidIsValid(type->eq_opr) && OidIsValid(type->lt_opr))
		return name;
	return psprintf("%s::pg_catalog.text", name);
}

static bool
is_key_column(const List *key, const char *name)
{
	ListCell *lc;

	foreach(lc, key)
	{
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	}
	return false;
}

static void
add_column(RowSql *sql, Form_pg_attribute column, const List *key)
{
	const char *name = quote_identifier(NameStr(column->attname));

	append_item(&sql->columns, "", name);
	if (key == NIL)
		append_item(&sql->identity, "", groupable(column));
	else if (is_key_column(key, NameStr(column->attname)))
		append_item(&sql->identity, "", name);
	else
	{
		append_item(&sql->values, "t.", name);
		append_item(&sql->new_values, "s.", name);
		append_item(&sql->assignments, "", psprintf("%s = s.%s", name, name));
	}
}

static RowSql *
collect_row_sql(Oid target, Oid shadow, const List *key)
{
	RowSql *sql = palloc0(sizeof(RowSql));
	Relation rel = table_open(target, AccessShareLock);

	sql->target = kappa_definition_relation_name(target);
	sql->shadow = kappa_definition_relation_name(shadow);
	initStringInfo(&sql->columns);
	initStringInfo(&sql->identity);
	initStringInfo(&sql->values);
	initStringInfo(&sql->new_values);
	initStringInfo(&sql->assignments);
	for (int i = 0; i < RelationGetNumberOfAttributes(rel); i++)
	{
		Form_pg_attribute column = TupleDescAttr(RelationGetDescr(rel), i);

		if (!column->attisdropped)
			add_column(sql, column, key);
	}
	table_close(rel, AccessShareLock);
	return sql;
}

/*
 * Rows of both tables side by side.  Rows are paired by grouping, not by
 * joining: that treats nulls as equal, and is done by hashing or sorting.
 */
static char *
both_tables(const RowSql *sql)
{
	return psprintf("(SELECT ctid, true AS old, %s FROM %s"
					" UNION ALL SELECT ctid, false, %s FROM %s)",
					sql->identity.data, sql->target, sql->identity.data, sql->shadow);
}

/* Rows of one table that have no equal left in the other when equal rows are paired one by one. */
static char *
unpaired_rows(const RowSql *sql, bool old)
{
	return psprintf("SELECT ctid FROM (SELECT ctid, old,"
					" pg_catalog.row_number() OVER (PARTITION BY identity, old) AS nth,"
					" pg_catalog.count(*) FILTER (WHERE old <> %s) OVER (PARTITION BY identity) AS others"
					" FROM (SELECT ctid, true AS old, ROW(%s) AS identity FROM %s"
					" UNION ALL SELECT ctid, false, ROW(%s) FROM %s) u) n"
					" WHERE old = %s AND nth > others",
					old ? "true" : "false",
					sql->identity.data, sql->target, sql->identity.data, sql->shadow,
					old ? "true" : "false");
}

/* Statements for tables with a key. */
static List *
keyed_statements(const RowSql *sql)
{
	char *both = both_tables(sql);
	List *statements = NIL;

	statements = lappend(statements,
						 psprintf("DELETE FROM %s WHERE ctid IN (SELECT pg_catalog.min(ctid)"
								  " FROM %s u GROUP BY %s HAVING pg_catalog.bool_and(old))",
								  sql->target, both, sql->identity.data));

	/* Compared by their bytes: the types need no equality of their own. */
	if (sql->values.len > 0)
		statements = lappend(statements,
							 psprintf("UPDATE %s t SET %s FROM %s s, (SELECT"
									  " pg_catalog.min(ctid) FILTER (WHERE old) AS old_ctid,"
									  " pg_catalog.min(ctid) FILTER (WHERE NOT old) AS new_ctid"
									  " FROM %s u GROUP BY %s HAVING pg_catalog.count(*) = 2) p"
									  " WHERE t.ctid = p.old_ctid AND s.ctid = p.new_ctid"
									  " AND ROW(%s)::record OPERATOR(pg_catalog.*<>) ROW(%s)::record",
									  sql->target, sql->assignments.data, sql->shadow,
									  both, sql->identity.data,
									  sql->values.data, sql->new_values.data));
	return lappend(statements,
				   psprintf("INSERT INTO %s (%s) SELECT %s FROM %s WHERE ctid IN"
							" (SELECT pg_catalog.min(ctid) FROM %s u GROUP BY %s"
							" HAVING NOT pg_catalog.bool_or(old))",
							sql->target, sql->columns.data, sql->columns.data, sql->shadow,
							both, sql->identity.data));
}

/* And for those without: as many equal rows as the shadow has. */
static List *
keyless_statements(const RowSql *sql)
{
	return list_make2(psprintf("DELETE FROM %s WHERE ctid IN (%s)",
							   sql->target, unpaired_rows(sql, true)),
					  psprintf("INSERT INTO %s (%s) SELECT %s FROM %s WHERE ctid IN (%s)",
							   sql->target, sql->columns.data, sql->columns.data,
							   sql->shadow, unpaired_rows(sql, false)));
}

/* Make the view's rows those of the shadow, as the view's owner. */
static void
switch_rows(const KappaView *view, const KappaVersion *to)
{
	RowSql *sql = collect_row_sql(view->view, to->target, to->key);
	KappaOwnerScope scope;

	kappa_definition_enter_owner(&scope, view->owner, to->settings);
	kappa_guard_permit(view->view);
	PushActiveSnapshot(GetTransactionSnapshot());
	kappa_definition_run_ddl(to->key == NIL ? keyless_statements(sql) : keyed_statements(sql));
	PopActiveSnapshot();
	kappa_guard_permit(InvalidOid);
	kappa_definition_leave_owner(&scope);
}

/* Give the view's table the columns of the new version, as the view's owner. */
static void
change_columns(const KappaView *view, const KappaVersion *to)
{
	KappaOwnerScope scope;

	kappa_definition_enter_owner(&scope, view->owner, to->settings);
	PushActiveSnapshot(GetTransactionSnapshot());
	kappa_columns_follow(view->view, to->target);
	PopActiveSnapshot();
	kappa_definition_leave_owner(&scope);
}

/* ---- kappa's tables ---- */

/* Delete a version from kappa's tables; false, and nothing done, if it is the live one or gone. */
static bool
delete_version_rows(Oid view, int32 version)
{
	KappaCatalogScope scope;
	Oid types[] = { OIDOID, INT4OID };
	Datum values[] = { ObjectIdGetDatum(view), Int32GetDatum(version) };
	bool deleted;

	kappa_catalog_enter(&scope);
	if (SPI_execute_with_args("WITH n AS (DELETE FROM kappa.view_version n USING kappa.view v"
							  " WHERE n.view = $1 AND n.version = $2 AND v.view = $1 AND v.version <> $2"
							  " RETURNING n.view, n.version),"
							  " p AS (DELETE FROM kappa.position p USING n"
							  " WHERE p.view = n.view AND p.version = n.version),"
							  " m AS (DELETE FROM kappa.last_message m USING n"
							  " WHERE m.view = n.view AND m.version = n.version),"
							  " g AS (DELETE FROM kappa.gap g USING n"
							  " WHERE g.view = n.view AND g.version = n.version),"
							  " d AS (DELETE FROM kappa.dead_letter d USING n"
							  " WHERE d.view = n.view AND d.version = n.version),"
							  " f AS (DELETE FROM kappa.fill f USING n"
							  " WHERE f.view = n.view AND f.version = n.version),"
							  " s AS (DELETE FROM kappa.fill_range s USING n"
							  " WHERE s.view = n.view AND s.version = n.version)"
							  " SELECT FROM n",
							  2, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not delete a version");
	deleted = SPI_processed == 1;
	kappa_catalog_leave(&scope);
	return deleted;
}

/*
 * What kappa.seek_view() passed over the new version has read: say so, before
 * the gaps go with the version that has them.
 */
static void
note_healed_gaps(Oid view, int32 from, int32 to)
{
	KappaCatalogScope scope;
	Oid types[] = { OIDOID, INT4OID, INT4OID };
	Datum values[] = { ObjectIdGetDatum(view), Int32GetDatum(from), Int32GetDatum(to) };

	kappa_catalog_enter(&scope);
	if (SPI_execute_with_args("INSERT INTO kappa.event (view, view_name, event, version, detail)"
							  " SELECT g.view, format('%I.%I', nspname, relname), 'healed', p.version,"
							  " format('partition %s: offset %s to %s', g.part,"
							  " greatest(g.from_offset, p.start_offset[g.part + 1]), g.to_offset)"
							  " FROM kappa.gap g JOIN kappa.position p USING (view, topic)"
							  " JOIN pg_class c ON c.oid = g.view JOIN pg_namespace n ON n.oid = relnamespace"
							  " WHERE g.view = $1 AND g.version = $2 AND p.version = $3"
							  " AND g.to_offset > p.start_offset[g.part + 1] ORDER BY g.id",
							  3, types, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not record healed gaps");
	kappa_catalog_leave(&scope);
}

/* A view that had been stopped runs again. */
static void
set_live_version(const KappaVersion *version)
{
	KappaShape *shape = kappa_analyze_query(kappa_definition_get_query(version->definition),
											NULL, false);
	KappaCatalogScope scope;
	Oid types[] = { OIDOID, INT4OID, TEXTOID, TEXTOID };
	Datum values[4];
	char nulls[] = { ' ', ' ', ' ', shape->inexact == NULL ? 'n' : ' ' };

	values[0] = ObjectIdGetDatum(version->view);
	values[1] = Int32GetDatum(version->version);
	values[2] = CStringGetTextDatum(shape->kind);
	values[3] = shape->inexact == NULL ? (Datum) 0 : CStringGetTextDatum(shape->inexact);
	kappa_catalog_enter(&scope);
	if (SPI_execute_with_args("WITH n AS (UPDATE kappa.view_version SET target = $1"
							  " WHERE view = $1 AND version = $2)"
							  " UPDATE kappa.view SET version = $2, state = 'running', reason = NULL,"
							  " kind = $3, inexact = $4,"
							  " since = CASE WHEN state = 'running' THEN since ELSE clock_timestamp() END"
							  " WHERE view = $1",
							  4, types, values, nulls, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not make a version live");
	kappa_catalog_leave(&scope);
}

/* ---- objects ---- */

static void
append_relation(List **relids, Oid relid)
{
	if (OidIsValid(relid) && get_rel_name(relid) != NULL)
		*relids = lappend_oid(*relids, relid);
}

KappaSwitchResult
kappa_rebuild_switch(const KappaView *view, const KappaVersion *from,
					 const KappaVersion *to, const char *kind,
					 int lock_timeout_ms, int *blocker)
{
	bool storage = strcmp(kind, KAPPA_SWITCH_STORAGE) == 0;
	bool columns = kappa_columns_differ(view->view, to->target);
	List *relids = NIL;
	Oid kept;

	/*
	 * All that will be dropped is locked before the view's own table:
	 * somebody may be reading the old definition for hours.
	 */
	append_relation(&relids, from->definition);
	append_relation(&relids, from->companion);
	append_relation(&relids, to->target);
	if (storage || columns)
		append_relation(&relids, view->view);
	KAPPA_FAULT(SWITCH_LOCKING, view->view);
	if (!kappa_swap_lock(relids, lock_timeout_ms))
	{
		*blocker = kappa_swap_get_blocker(relids);
		return KAPPA_SWITCH_LOCKED;
	}

	if (storage && !kappa_swap_indexes_equal(view->view, to->target))
		return KAPPA_SWITCH_CHANGED;

	/* Some of what changes below lies in TOAST tables of the catalogs. */
	PushActiveSnapshot(GetTransactionSnapshot());
	kept = kappa_previous_prepare(view, from, to, storage);
	if (!OidIsValid(kept))
		kappa_history_end(view->view, from->version);
	if (columns)
		change_columns(view, to);
	if (!storage)
		switch_rows(view, to);
	else if (!kappa_swap_storage(view->view, to->target))
		elog(ERROR, "indexes of view \"%s\" are not those of its new version", get_rel_name(view->view));
	else
	{
		/* The planner would believe of the new rows what it knows of the old ones. */
		RemoveStatistics(view->view, 0);
		CopyStatistics(to->target, view->view);
	}

	set_live_version(to);
	note_healed_gaps(view->view, from->version, to->version);
	kappa_history_switch(view->view, to->version);
	if (OidIsValid(kept))
		kappa_previous_keep(view, from, kept);
	else
	{
		(void) delete_version_rows(view->view, from->version);
		kappa_definition_drop_relation(from->definition, DROP_RESTRICT);
		kappa_definition_drop_relation(from->companion, DROP_RESTRICT);
	}
	if (kept != to->target)
		kappa_definition_drop_relation(to->target, DROP_CASCADE);
	PopActiveSnapshot();
	kappa_catalog_add_event(view->view, "switched", to->version, NULL,
							psprintf("from version %d, by %s", from->version, kind));
	KAPPA_FAULT(SWITCH_SWAPPED, view->view);
	kappa_shmem_wake_at_commit();
	return KAPPA_SWITCH_DONE;
}

bool
kappa_rebuild_drop_version(const KappaVersion *version)
{
	KappaFill *fill = kappa_fill_get(version->view, version->version);
	Oid relids[] = { version->target, version->companion, version->definition,
					 fill == NULL ? InvalidOid : fill->staging };
	KappaVersion *now;

	for (int i = 0; i < lengthof(relids); i++)
	{
		if (OidIsValid(relids[i]))
			LockRelationOid(relids[i], AccessExclusiveLock);
	}

	/* Who waited for a lock may find that the version has become live. */
	now = kappa_catalog_get_version(version->view, version->version);
	if (now == NULL || now->live)
		return false;
	kappa_history_end(version->view, version->version);
	if (!delete_version_rows(version->view, version->version))
		return false;

	/* Nobody was told of these objects: what was hung onto them goes, too. */
	for (int i = 0; i < lengthof(relids); i++)
		kappa_definition_drop_relation(relids[i], DROP_CASCADE);
	KAPPA_FAULT(VERSION_DROPPED, version->view);
	kappa_shmem_wake_at_commit();
	return true;
}

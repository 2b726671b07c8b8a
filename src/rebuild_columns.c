/*-------------------------------------------------------------------------
 *
 * rebuild_columns.c
 *	  Columns of a view's table when its query changes
 *
 * Columns are found by name: PostgreSQL keeps the place of a column that was
 * dropped, so numbers in a query and in a table part ways.
 *
 * IDENTIFICATION
 *	  src/rebuild_columns.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_type.h"
#include "commands/tablecmds.h"
#include "executor/spi.h"
#include "nodes/makefuncs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "definition.h"
#include "rebuild_columns.h"
#include "view_text.h"

#define SECOND_VIEW_HINT "Make a second view with kappa.create_view()."

/* ---- finding columns ---- */

static KappaOutput *
find_output(const KappaShape *shape, const char *name)
{
	ListCell *lc;

	foreach(lc, shape->outputs)
	{
		KappaOutput *output = lfirst(lc);

		if (strcmp(output->name, name) == 0)
			return output;
	}
	return NULL;
}

static Form_pg_attribute
find_column(TupleDesc columns, const char *name)
{
	for (int i = 0; i < columns->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(columns, i);

		if (!column->attisdropped && strcmp(NameStr(column->attname), name) == 0)
			return column;
	}
	return NULL;
}

static char *
join_names(const List *names)
{
	StringInfoData buf;
	ListCell *lc;

	initStringInfo(&buf);
	foreach(lc, names)
		appendStringInfo(&buf, "%s%s", buf.len > 0 ? ", " : "", (char *) lfirst(lc));
	return buf.data;
}

static List *
list_column_names(TupleDesc columns)
{
	List *names = NIL;

	for (int i = 0; i < columns->natts; i++)
	{
		if (!TupleDescAttr(columns, i)->attisdropped)
			names = lappend(names, NameStr(TupleDescAttr(columns, i)->attname));
	}
	return names;
}

static List *
list_key(const KappaShape *shape)
{
	List *names = NIL;
	ListCell *lc;

	foreach(lc, shape->outputs)
	{
		KappaOutput *output = lfirst(lc);

		if (list_member_int(shape->key, output->resno))
			names = lappend(names, output->name);
	}
	return names;
}

/* ---- what is refused: columns ---- */

static void
check_type(Relation rel, Form_pg_attribute column, const KappaOutput *output)
{
	Oid collation = output->collation;
	const char *name = NameStr(column->attname);

	if (!OidIsValid(collation))
		collation = get_typcollation(output->type);
	if (column->atttypid != output->type || column->atttypmod != output->typmod)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("cannot change the type of column \"%s\" of view \"%s\"",
						name, RelationGetRelationName(rel)),
				 errdetail("It is of type %s, the new query's is of type %s.",
						   format_type_with_typemod(column->atttypid, column->atttypmod),
						   format_type_with_typemod(output->type, output->typmod)),
				 errhint("Cast the expression to the type of the column, add it as a new column, or make a second view with kappa.create_view().")));
	if (column->attcollation != collation)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("cannot change the collation of column \"%s\" of view \"%s\"",
						name, RelationGetRelationName(rel)),
				 errdetail("It is \"%s\", the new query's is \"%s\".",
						   get_collation_name(column->attcollation), get_collation_name(collation)),
				 errhint("Add COLLATE to the expression, or make a second view with kappa.create_view().")));
}

/* Adding it fills the rows with nulls, which are checked, although they are to be replaced. */
static void
check_new_column(Relation rel, const KappaOutput *output)
{
	if (DomainHasConstraints(output->type))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot add column \"%s\" to view \"%s\"",
						output->name, RelationGetRelationName(rel)),
				 errdetail("Its type %s is a domain with constraints.", format_type_be(output->type)),
				 errhint("Cast the expression to %s, or make a second view with kappa.create_view().",
						 format_type_be(getBaseType(output->type)))));
}

static void
report_misplaced(Relation rel, const char *first, const char *second)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
			 errmsg("column \"%s\" of view \"%s\" cannot come before column \"%s\"",
					first, RelationGetRelationName(rel), second),
			 errdetail("Columns keep their names and places: %s.  New columns come after them.",
					   join_names(list_column_names(RelationGetDescr(rel)))),
			 errhint("Put the columns of the new query in that order.  To give a column another name or place, make a second view with kappa.create_view().")));
}

/* Columns of the table in their order, then new ones. */
static void
check_columns(Relation rel, const KappaShape *shape)
{
	const KappaOutput *before = NULL;
	AttrNumber place = 0;
	bool new_seen = false;
	ListCell *lc;

	foreach(lc, shape->outputs)
	{
		KappaOutput *output = lfirst(lc);
		Form_pg_attribute column = find_column(RelationGetDescr(rel), output->name);

		if (column == NULL)
			check_new_column(rel, output);
		else
		{
			if (new_seen || column->attnum < place)
				report_misplaced(rel, before->name, output->name);
			check_type(rel, column, output);
			place = column->attnum;
		}
		new_seen = column == NULL;
		before = output;
	}
}

/* ---- what is refused: keys ---- */

/* Has the table a unique index on just these columns, in which nulls, if any, are equal? */
static bool
has_unique_index(Relation rel, const List *key, bool not_null)
{
	Bitmapset *wanted = NULL;
	bool found = false;
	ListCell *lc;

	foreach(lc, key)
		wanted = bms_add_member(wanted, find_column(RelationGetDescr(rel), lfirst(lc))->attnum);
	foreach(lc, RelationGetIndexList(rel))
	{
		HeapTuple tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(lc)));
		Form_pg_index index;
		Bitmapset *columns = NULL;

		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for index %u", lfirst_oid(lc));
		index = (Form_pg_index) GETSTRUCT(tuple);
		for (int i = 0; i < index->indnkeyatts; i++)
			columns = bms_add_member(columns, index->indkey.values[i]);
		if (index->indisunique && index->indimmediate && index->indisvalid &&
			(not_null || index->indnullsnotdistinct) &&
			heap_attisnull(tuple, Anum_pg_index_indpred, NULL) && bms_equal(columns, wanted))
			found = true;
		ReleaseSysCache(tuple);
	}
	return found;
}

static void
report_other_key(const KappaView *view, const List *before, const List *now)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
			 errmsg("cannot change the key of view \"%s\"", get_rel_name(view->view)),
			 before == NIL ? errdetail("Its rows have no key, those of the query have (%s).", join_names(now))
			 : now == NIL  ? errdetail("Its rows have the key (%s), those of the query have none.", join_names(before))
						   : errdetail("Its rows have the key (%s), those of the query have (%s).",
									   join_names(before), join_names(now)),
			 errhint(SECOND_VIEW_HINT)));
}

/*
 * What a row is must stay: the key is that of the table, of references to it
 * and of its subscribers.  The query may find the rows in another way.
 */
static void
check_key(const KappaView *view, Relation rel, const List *before, const KappaShape *shape)
{
	List *now = list_key(shape);
	ListCell *lc;

	if (list_length(before) != list_length(now))
		report_other_key(view, before, now);
	foreach(lc, now)
	{
		if (!kappa_text_has_name(before, lfirst(lc)))
			report_other_key(view, before, now);
	}
	if (now != NIL && !has_unique_index(rel, now, shape->key_not_null))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("cannot change the key of view \"%s\"", get_rel_name(view->view)),
				 errdetail("Its table has no unique index on (%s)%s.", join_names(now),
						   shape->key_not_null ? "" : " that takes nulls for equal, and those of the query can be null"),
				 errhint(SECOND_VIEW_HINT)));
}

/* ---- what is refused: dependents ---- */

/*
 * What ALTER TABLE ... DROP COLUMN would find in its way, and what it would take
 * along.  The lock that it needs is not to be had while people read, and what
 * it needs is in pg_depend.
 *
 * A rule is named by the SQL view that it is a part of.  An index that
 * identifies rows for logical replication would go silently, and the first
 * change of a row would stop the view.
 */
#define DEPENDENTS_SQL \
	"WITH RECURSIVE gone (attnum, classid, objid, objsubid) AS (" \
	" SELECT u.attnum, 'pg_class'::regclass::oid, $1, u.attnum" \
	" FROM unnest($2) AS u (attnum)" \
	" UNION" \
	" SELECT g.attnum, d.classid, d.objid, d.objsubid" \
	" FROM gone g JOIN pg_depend d ON d.refclassid = g.classid AND d.refobjid = g.objid" \
	" AND (g.objsubid = 0 OR d.refobjsubid = g.objsubid)" \
	" WHERE d.deptype IN ('a', 'i', 'P', 'S'))," \
	" found (attnum, classid, objid, objsubid, blocks) AS (" \
	" SELECT g.attnum, coalesce(i.refclassid, d.classid), coalesce(i.refobjid, d.objid)," \
	" coalesce(i.refobjsubid, d.objsubid), true" \
	" FROM gone g JOIN pg_depend d ON d.refclassid = g.classid AND d.refobjid = g.objid" \
	" AND (g.objsubid = 0 OR d.refobjsubid = g.objsubid)" \
	" LEFT JOIN pg_depend i ON i.classid = d.classid AND i.objid = d.objid AND i.deptype = 'i'" \
	" WHERE d.deptype = 'n' AND NOT EXISTS (SELECT FROM gone x" \
	" WHERE x.classid = d.classid AND x.objid = d.objid)" \
	" UNION" \
	" SELECT g.attnum, g.classid, g.objid, g.objsubid, EXISTS (SELECT FROM pg_index" \
	" WHERE indexrelid = g.objid AND indisreplident)" \
	" FROM gone g WHERE (g.classid, g.objsubid) <> ('pg_class'::regclass, g.attnum))" \
	" SELECT DISTINCT format('%s depends on column %I', pg_describe_object(classid, objid, objsubid), attname)," \
	" blocks FROM found f JOIN pg_attribute a ON a.attrelid = $1 AND a.attnum = f.attnum ORDER BY 1"

static Datum
make_attnums(const List *attnums)
{
	Datum *elements = palloc(list_length(attnums) * sizeof(Datum));
	int n = 0;
	ListCell *lc;

	foreach(lc, attnums)
		elements[n++] = Int32GetDatum(lfirst_int(lc));
	return PointerGetDatum(construct_array(elements, n, INT4OID, sizeof(int32), true,
										   TYPALIGN_INT));
}

/* Lines that say what depends on columns: what is in the way of dropping them, and what is not. */
static void
find_dependents(Oid relid, const List *attnums, StringInfo blocking, StringInfo harmless)
{
	KappaCatalogScope scope;
	Oid types[] = { OIDOID, INT4ARRAYOID };
	Datum values[] = { ObjectIdGetDatum(relid), make_attnums(attnums) };

	kappa_catalog_enter(&scope);
	if (SPI_execute_with_args(DEPENDENTS_SQL, 2, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read pg_depend");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		bool isnull;
		bool blocks = DatumGetBool(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull));
		StringInfo buf = blocks ? blocking : harmless;

		appendStringInfo(buf, "%s%s", buf->len > 0 ? "\n" : "",
						 SPI_getvalue(row, SPI_tuptable->tupdesc, 1));
	}
	kappa_catalog_leave(&scope);
}

static void
check_dependents(Relation rel, const KappaShape *shape)
{
	List *attnums = NIL;
	List *names = NIL;
	StringInfoData blocking;
	StringInfoData harmless;

	for (int i = 0; i < RelationGetNumberOfAttributes(rel); i++)
	{
		Form_pg_attribute column = TupleDescAttr(RelationGetDescr(rel), i);

		if (column->attisdropped || find_output(shape, NameStr(column->attname)) != NULL)
			continue;
		attnums = lappend_int(attnums, column->attnum);
		names = lappend(names, psprintf("\"%s\"", NameStr(column->attname)));
	}
	if (attnums == NIL)
		return;

	initStringInfo(&blocking);
	initStringInfo(&harmless);
	find_dependents(RelationGetRelid(rel), attnums, &blocking, &harmless);
	if (blocking.len > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg_plural("cannot drop column %s of view \"%s\" because other objects depend on it",
							   "cannot drop columns %s of view \"%s\" because other objects depend on them",
							   list_length(names), join_names(names), RelationGetRelationName(rel)),
				 errdetail("%s", blocking.data),
				 errhint("Keep the columns in the query, or drop first what depends on them.")));
	ereport(NOTICE,
			(errmsg_plural("column %s of view \"%s\" will be dropped at the switch",
						   "columns %s of view \"%s\" will be dropped at the switch",
						   list_length(names), join_names(names), RelationGetRelationName(rel)),
			 harmless.len == 0 ? 0 : errdetail("With it goes what belongs to it:\n%s", harmless.data)));
}

void
kappa_columns_check(const KappaView *view, const KappaVersion *from, const KappaShape *shape)
{
	Relation rel = table_open(view->view, NoLock);

	check_key(view, rel, from->key, shape);
	check_columns(rel, shape);
	check_dependents(rel, shape);
	table_close(rel, NoLock);
}

/* ---- the shadow ---- */

/* Users cannot name a column so. */
static KappaOutput *
make_placeholder(AttrNumber attnum)
{
	KappaOutput *output = palloc0(sizeof(KappaOutput));

	output->name = psprintf("kappa dropped %d", attnum);
	output->type = BOOLOID;
	output->typmod = -1;
	return output;
}

/*
 * Outputs of a shape in the places that they have in a table, with placeholders
 * for columns that were dropped or will be; *placeholders: attribute numbers.
 */
static List *
arrange_outputs(const KappaShape *shape, TupleDesc columns, List **placeholders)
{
	List *outputs = NIL;
	ListCell *lc;

	*placeholders = NIL;
	for (int i = 0; i < columns->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(columns, i);
		KappaOutput *output = NULL;

		if (!column->attisdropped)
			output = find_output(shape, NameStr(column->attname));
		if (output == NULL)
		{
			output = make_placeholder(column->attnum);
			*placeholders = lappend_int(*placeholders, column->attnum);
		}
		outputs = lappend(outputs, output);
	}
	foreach(lc, shape->outputs)
	{
		if (find_column(columns, ((KappaOutput *) lfirst(lc))->name) == NULL)
			outputs = lappend(outputs, lfirst(lc));
	}
	return outputs;
}

static AlterTableCmd *
make_drop(const char *name)
{
	AlterTableCmd *cmd = makeNode(AlterTableCmd);

	cmd->subtype = AT_DropColumn;
	cmd->name = pstrdup(name);
	cmd->behavior = DROP_RESTRICT;
	return cmd;
}

/* A column that was dropped goes on to say how its values are read. */
static void
copy_layout(Relation pg_attribute, Form_pg_attribute column, Oid shadow)
{
	HeapTuple tuple = SearchSysCacheCopy2(ATTNUM, ObjectIdGetDatum(shadow),
										  Int16GetDatum(column->attnum));
	Form_pg_attribute copy;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for attribute %d of relation %u", column->attnum, shadow);
	copy = (Form_pg_attribute) GETSTRUCT(tuple);
	copy->attlen = column->attlen;
	copy->attbyval = column->attbyval;
	copy->attalign = column->attalign;
	copy->attstorage = column->attstorage;
	CatalogTupleUpdate(pg_attribute, &tuple->t_self, tuple);
	heap_freetuple(tuple);
}

/*
 * Make columns dropped ones that look as the target's.  No row has a value in
 * them yet.
 */
static void
drop_placeholders(TupleDesc columns, Oid shadow, const List *placeholders)
{
	Relation pg_attribute;
	List *commands = NIL;
	ListCell *lc;

	if (placeholders == NIL)
		return;
	foreach(lc, placeholders)
		commands = lappend(commands, make_drop(make_placeholder(lfirst_int(lc))->name));
	AlterTableInternal(shadow, commands, false);
	CommandCounterIncrement();

	pg_attribute = table_open(AttributeRelationId, RowExclusiveLock);
	foreach(lc, placeholders)
		copy_layout(pg_attribute, TupleDescAttr(columns, lfirst_int(lc) - 1), shadow);
	table_close(pg_attribute, RowExclusiveLock);
	CommandCounterIncrement();
}

Oid
kappa_columns_create_shadow(const KappaView *view, const KappaShape *shape, const char *suffix)
{
	Relation target = table_open(view->view, AccessShareLock);
	KappaShape layout = *shape;
	List *placeholders;
	Oid shadow;

	layout.outputs = arrange_outputs(shape, RelationGetDescr(target), &placeholders);
	shadow = kappa_definition_create_state_table(kappa_plan_table_ddl, &layout,
												 get_rel_namespace(view->view),
												 get_rel_name(view->view), suffix);
	drop_placeholders(RelationGetDescr(target), shadow, placeholders);
	table_close(target, NoLock);
	return shadow;
}

/* ---- at the switch ---- */

bool
kappa_columns_differ(Oid target, Oid shadow)
{
	KappaCatalogScope scope;
	Oid types[] = { OIDOID, OIDOID };
	Datum values[] = { ObjectIdGetDatum(target), ObjectIdGetDatum(shadow) };
	bool differ;

	kappa_catalog_enter(&scope);
	if (SPI_execute_with_args("SELECT FROM pg_attribute WHERE attrelid IN ($1, $2)"
							  " AND attnum > 0 AND NOT attisdropped"
							  " GROUP BY attname HAVING count(*) = 1",
							  2, types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read pg_attribute");
	differ = SPI_processed > 0;
	kappa_catalog_leave(&scope);
	return differ;
}

static AlterTableCmd *
make_add(Form_pg_attribute column)
{
	AlterTableCmd *cmd = makeNode(AlterTableCmd);

	cmd->subtype = AT_AddColumn;
	cmd->def = (Node *) makeColumnDef(pstrdup(NameStr(column->attname)), column->atttypid,
									  column->atttypmod, column->attcollation);
	return cmd;
}

void
kappa_columns_follow(Oid target, Oid shadow)
{
	Relation target_rel = table_open(target, NoLock);
	Relation shadow_rel = table_open(shadow, NoLock);
	TupleDesc before = RelationGetDescr(target_rel);
	TupleDesc after = RelationGetDescr(shadow_rel);
	List *commands = NIL;

	for (int i = 0; i < before->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(before, i);

		if (!column->attisdropped && find_column(after, NameStr(column->attname)) == NULL)
			commands = lappend(commands, make_drop(NameStr(column->attname)));
	}
	for (int i = 0; i < after->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(after, i);

		if (!column->attisdropped && find_column(before, NameStr(column->attname)) == NULL)
			commands = lappend(commands, make_add(column));
	}
	table_close(shadow_rel, NoLock);
	table_close(target_rel, NoLock);
	if (commands == NIL)
		return;
	AlterTableInternal(target, commands, false);
	CommandCounterIncrement();
}

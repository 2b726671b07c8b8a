/*-------------------------------------------------------------------------
 *
 * definition_functions.c
 *	  What the functions behind a definition do
 *
 * Dependencies keep a function from being dropped, but CREATE OR REPLACE
 * FUNCTION, or an update of an extension, puts another one in its place.  Rows
 * that it has made before and rows that it makes afterwards are then not those
 * of one query.  So a version remembers what its functions were: hashes, which
 * a dump and restore, or a new name for a function, leaves as they are.
 *
 * That goes as far as PostgreSQL knows what calls what: through operators,
 * casts, aggregates, the support functions of types, and functions whose body
 * is parsed when they are made (BEGIN ATOMIC, RETURN).  What is called by a body
 * that is a string is known to nobody; and what has been lying in a library may
 * change without any statement at all.
 *
 * Constraints of domains are left out.  They decide whether a message is an
 * error, never what a row looks like, and dropping one is how to get on with
 * messages that do not satisfy it.  So are lookups, whose SQL views are read
 * as they are when a message is applied, like tables.
 *
 * IDENTIFICATION
 *	  src/definition_functions.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/dependency.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "definition.h"
#include "definition_functions.h"
#include "kappa.h"

/* ---- which functions ---- */

typedef struct Search
{
	List *functions; /* OIDs, in the order in which they were found */
	List *types;     /* OIDs that have been looked at */
} Search;

/* Those of initdb stay what they are until the next major version. */
static void
add_function(Search *search, Oid funcid)
{
	if (funcid >= FirstNormalObjectId)
		search->functions = list_append_unique_oid(search->functions, funcid);
}

static void add_type(Search *search, Oid type);

static void
add_row_type(Search *search, Oid type)
{
	TupleDesc desc = lookup_rowtype_tupdesc(type, -1);

	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped)
			add_type(search, TupleDescAttr(desc, i)->atttypid);
	ReleaseTupleDesc(desc);
}

static void
add_range_type(Search *search, Oid type)
{
	TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_RANGE_INFO);

	add_type(search, entry->rngelemtype->type_id);
	add_function(search, entry->rng_cmp_proc_finfo.fn_oid);
	add_function(search, entry->rng_canonical_finfo.fn_oid);
}

/* What reads, writes and compares the values of a type. */
static void
add_base_type(Search *search, Oid type)
{
	TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_EQ_OPR | TYPECACHE_CMP_PROC |
														TYPECACHE_HASH_PROC);
	Oid input;
	Oid output;
	Oid parameter;
	bool varlena;

	getTypeInputInfo(type, &input, &parameter);
	getTypeOutputInfo(type, &output, &varlena);
	add_function(search, input);
	add_function(search, output);
	if (OidIsValid(entry->eq_opr))
		add_function(search, get_opcode(entry->eq_opr));
	add_function(search, entry->cmp_proc);
	add_function(search, entry->hash_proc);
}

static void
add_type(Search *search, Oid type)
{
	Oid element = get_element_type(type);

	if (type < FirstNormalObjectId || list_member_oid(search->types, type))
		return;
	check_stack_depth();
	search->types = lappend_oid(search->types, type);
	if (OidIsValid(element))
	{
		add_type(search, element);
		return;
	}
	switch (get_typtype(type))
	{
		case TYPTYPE_DOMAIN:
			add_type(search, getBaseType(type));
			break;
		case TYPTYPE_COMPOSITE:
			add_row_type(search, type);
			break;
		case TYPTYPE_RANGE:
			add_range_type(search, type);
			break;
		case TYPTYPE_MULTIRANGE:
			add_type(search, get_multirange_range(type));
			break;
		case TYPTYPE_BASE:
			add_base_type(search, type);
			break;
		default:
			break;
	}
}

static bool
search_function(Oid funcid, void *context)
{
	add_function(context, funcid);
	return false;
}

/* Rows are put into groups, and sorted, by operators that are no part of an expression. */
static void
search_sort_clause(Search *search, SortGroupClause *clause)
{
	add_function(search, get_opcode(clause->eqop));
	if (OidIsValid(clause->sortop))
		add_function(search, get_opcode(clause->sortop));
}

/*
 * Types come in with columns and constants, and out of calls and casts; other
 * expressions hand on those of their arguments.
 */
static bool
search_node(Node *node, void *context)
{
	Search *search = context;

	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_Query:
			return query_tree_walker((Query *) node, search_node, context,
									 QTW_IGNORE_JOINALIASES | QTW_EXAMINE_SORTGROUP);
		case T_SortGroupClause:
			search_sort_clause(search, (SortGroupClause *) node);
			return false;
		case T_Var:
		case T_Const:
		case T_FuncExpr:
		case T_OpExpr:
		case T_Aggref:
		case T_RelabelType:
		case T_CoerceViaIO:
		case T_ArrayCoerceExpr:
		case T_CoerceToDomain:
		case T_RowExpr:
		case T_FieldSelect:
		case T_SubscriptingRef:
			add_type(search, exprType(node));
			break;
		default:
			break;
	}
	(void) check_functions_in_node(node, search_function, context);
	return expression_tree_walker(node, search_node, context);
}

/* ---- what they do ---- */

/* Of a function, and of those behind it, which are added to the search. */
typedef struct Description
{
	StringInfoData text;
	Search search;
	bool deparsed; /* some of the text depends on how this major version deparses */
} Description;

static void
append_text(Description *d, int cache, HeapTuple tuple, AttrNumber attno)
{
	bool isnull;
	Datum value = SysCacheGetAttr(cache, tuple, attno, &isnull);

	appendStringInfo(&d->text, "%s\n", isnull ? "" : TextDatumGetCString(value));
}

static void
append_settings(Description *d, HeapTuple tuple)
{
	bool isnull;
	Datum value = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_proconfig, &isnull);
	Datum *elements;
	int n;

	if (isnull)
		return;
	deconstruct_array(DatumGetArrayTypeP(value), TEXTOID, -1, false, TYPALIGN_INT, &elements,
					  NULL, &n);
	for (int i = 0; i < n; i++)
		appendStringInfo(&d->text, "%s\n", TextDatumGetCString(elements[i]));
}

/*
 * The library of an extension's function may have the version in its name: an
 * update that changes nothing else is none.  So a library's name means nothing
 * there, and what its functions do now is up to the extension's author.
 */
static void
append_library(Description *d, Oid funcid, HeapTuple tuple)
{
	if (!OidIsValid(getExtensionOfObject(ProcedureRelationId, funcid)))
		append_text(d, PROCOID, tuple, Anum_pg_proc_probin);
}

static void
append_body(Description *d, Oid funcid, HeapTuple tuple)
{
	bool isnull;
	Datum body = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_prosqlbody, &isnull);

	if (isnull)
		return;
	(void) search_node(stringToNode(TextDatumGetCString(body)), &d->search);
	appendStringInfo(&d->text, "%s\n",
					 TextDatumGetCString(DirectFunctionCall1(pg_get_function_sqlbody,
															 ObjectIdGetDatum(funcid))));
	d->deparsed = true;
}

/* Behind an aggregate: a function of PostgreSQL by name, others by their place. */
static void
append_support(Description *d, Oid funcid)
{
	ListCell *lc;

	add_function(&d->search, funcid);
	if (OidIsValid(funcid) && funcid < FirstNormalObjectId)
		appendStringInfoString(&d->text, format_procedure_qualified(funcid));
	foreach(lc, d->search.functions)
		if (lfirst_oid(lc) == funcid)
			appendStringInfo(&d->text, "%d", foreach_current_index(lc));
	appendStringInfoChar(&d->text, '\n');
}

static void
append_aggregate(Description *d, Oid funcid)
{
	HeapTuple tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(funcid));
	Form_pg_aggregate form;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", funcid);
	form = (Form_pg_aggregate) GETSTRUCT(tuple);
	append_support(d, form->aggtransfn);
	append_support(d, form->aggfinalfn);
	append_support(d, form->aggcombinefn);
	append_support(d, form->aggserialfn);
	append_support(d, form->aggdeserialfn);
	appendStringInfo(&d->text, "%d %s\n", form->aggfinalextra,
					 form->aggtranstype < FirstNormalObjectId
						 ? format_type_be_qualified(form->aggtranstype)
						 : "");
	append_text(d, AGGFNOID, tuple, Anum_pg_aggregate_agginitval);
	ReleaseSysCache(tuple);
}

static void
append_function(Description *d, Oid funcid)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(funcid));
	Form_pg_proc form;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", funcid);
	form = (Form_pg_proc) GETSTRUCT(tuple);
	appendStringInfo(&d->text, "%s %c %d %c\n", get_language_name(form->prolang, false),
					 form->prokind, form->proisstrict, form->provolatile);
	append_text(d, PROCOID, tuple, Anum_pg_proc_prosrc);
	append_library(d, funcid, tuple);
	append_settings(d, tuple);
	append_body(d, funcid, tuple);
	if (form->prokind == PROKIND_AGGREGATE)
		append_aggregate(d, funcid);
	ReleaseSysCache(tuple);
}

static char *
hash_description(const Description *d)
{
	uint64 hash = DatumGetUInt64(hash_any_extended((unsigned char *) d->text.data,
												   d->text.len, 0));

	return psprintf("%s%016llx", d->deparsed ? PG_MAJORVERSION " " : "",
					(unsigned long long) hash);
}

static KappaCallee *
describe_callee(Oid funcid, List **all)
{
	KappaCallee *callee = palloc(sizeof(KappaCallee));
	Description d = { 0 };

	initStringInfo(&d.text);
	add_function(&d.search, funcid);

	/* The list grows while it is gone through. */
	for (int i = 0; i < list_length(d.search.functions); i++)
		append_function(&d, list_nth_oid(d.search.functions, i));
	callee->function = funcid;
	callee->hash = hash_description(&d);
	if (all != NULL)
		*all = list_concat_unique_oid(*all, d.search.functions);
	pfree(d.text.data);
	return callee;
}

List *
kappa_definition_list_callees(Oid definition, List **all)
{
	Search search = { 0 };
	List *callees = NIL;
	ListCell *lc;
	int level;

	(void) search_node((Node *) kappa_definition_get_query(definition), &search);
	if (search.functions == NIL)
		return NIL;
	level = kappa_definition_enter_hash();
	foreach(lc, search.functions)
		callees = lappend(callees, describe_callee(lfirst_oid(lc), all));
	AtEOXact_GUC(true, level);
	return callees;
}

List *
kappa_definition_hash_callees(const List *callees)
{
	List *hashes = NIL;
	ListCell *lc;

	foreach(lc, callees)
		hashes = lappend(hashes, ((KappaCallee *) lfirst(lc))->hash);
	return hashes;
}

/* ---- comparing ---- */

/* Zero of a hash that is the same in all major versions. */
static int
get_major_version(const char *hash)
{
	return strchr(hash, ' ') == NULL ? 0 : atoi(hash);
}

/* One version's way of deparsing says nothing about another's. */
static bool
is_among(const char *hash, const List *before)
{
	int major = get_major_version(hash);
	ListCell *lc;

	foreach(lc, before)
	{
		int other = get_major_version(lfirst(lc));

		if (strcmp(lfirst(lc), hash) == 0 || (major != 0 && other != 0 && other != major))
			return true;
	}
	return false;
}

Oid
kappa_definition_find_changed_callee(const List *callees, const List *before)
{
	ListCell *lc;

	foreach(lc, callees)
	{
		KappaCallee *callee = lfirst(lc);

		if (!is_among(callee->hash, before))
			return callee->function;
	}
	return InvalidOid;
}

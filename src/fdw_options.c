/*-------------------------------------------------------------------------
 *
 * fdw_options.c
 *	  Read the options of servers, user mappings, foreign tables and columns
 *
 * Single options were checked when they were set (fdw_validator.c).  What only
 * shows when columns and tables are looked at together is checked here.
 *
 * IDENTIFICATION
 *	  src/fdw_options.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_foreign_server.h"
#include "commands/defrem.h"
#include "compat.h"
#include "fdw.h"
#include "fdw_options.h"
#include "fdw_properties.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

typedef struct OptionValue
{
	const char *name;
	int value;
} OptionValue;

static const OptionValue formats[] = {
	{ "json", KAPPA_FORMAT_JSON },
	{ "raw", KAPPA_FORMAT_RAW },
};

static const OptionValue key_formats[] = {
	{ "json", KAPPA_KEY_JSON },
	{ "raw", KAPPA_KEY_RAW },
};

static const OptionValue key_orders[] = {
	{ "offset", KAPPA_KEY_ORDER_OFFSET },
	{ "timestamp", KAPPA_KEY_ORDER_TIMESTAMP },
};

static const OptionValue metadata_sources[] = {
	{ "headers", KAPPA_SOURCE_HEADERS },
	{ "key", KAPPA_SOURCE_KEY },
	{ "offset", KAPPA_SOURCE_OFFSET },
	{ "partition", KAPPA_SOURCE_PARTITION },
	{ "timestamp", KAPPA_SOURCE_TIMESTAMP },
	{ "timestamp_type", KAPPA_SOURCE_TIMESTAMP_TYPE },
	{ "topic", KAPPA_SOURCE_TOPIC },
	{ "value", KAPPA_SOURCE_VALUE },
};

static int
parse_choice(const char *option, const char *value,
			 const OptionValue *choices, int n)
{
	StringInfoData valid;

	for (int i = 0; i < n; i++)
	{
		if (strcmp(choices[i].name, value) == 0)
			return choices[i].value;
	}

	initStringInfo(&valid);
	for (int i = 0; i < n; i++)
		appendStringInfo(&valid, "%s\"%s\"", i > 0 ? ", " : "", choices[i].name);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\": \"%s\"", option, value),
			 errhint("Valid values are: %s", valid.data)));
}

KappaFormat
kappa_options_parse_format(const char *value)
{
	return parse_choice("format", value, formats, lengthof(formats));
}

KappaKeyFormat
kappa_options_parse_key_format(const char *value)
{
	return parse_choice("key_format", value, key_formats, lengthof(key_formats));
}

KappaKeyOrder
kappa_options_parse_key_order(const char *value)
{
	return parse_choice("key_order", value, key_orders, lengthof(key_orders));
}

KappaColumnSource
kappa_options_parse_metadata(const char *value)
{
	return parse_choice("metadata", value,
						metadata_sources, lengthof(metadata_sources));
}

bool
kappa_options_parse_boolean(const char *option, const char *value)
{
	bool result;

	if (!parse_bool(value, &result))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\": \"%s\"", option, value),
				 errhint("Valid values are: \"true\", \"false\"")));
	return result;
}

static void
report_invalid_path(const char *path, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid path \"%s\"", path),
			 errdetail("%s", detail)));
}

/*
 * Take one step off a path, without the dot that may follow.  Returns a
 * palloc'd string.
 */
static char *
parse_path_step(const char *path, const char **cursor)
{
	const char *p = *cursor;
	StringInfoData step;

	initStringInfo(&step);
	if (*p == '"')
	{
		for (p++;; p++)
		{
			if (*p == '\0')
				report_invalid_path(path, "A double quote is not closed.");
			if (*p == '"' && *++p != '"')
				break;
			appendStringInfoChar(&step, *p);
		}
		if (*p != '\0' && *p != '.')
			report_invalid_path(path, "A quoted step must be followed by a dot or the end of the path.");
	}
	else
	{
		for (; *p != '\0' && *p != '.'; p++)
			appendStringInfoChar(&step, *p);
		if (step.len == 0)
			report_invalid_path(path, "A step is empty.");
	}

	*cursor = p;
	return step.data;
}

int
kappa_options_parse_path(const char *path, const char ***steps)
{
	const char *cursor = path;
	int nsteps = 0;

	/* Each step but the first costs a dot. */
	*steps = palloc((strlen(path) / 2 + 1) * sizeof(char *));

	for (;;)
	{
		(*steps)[nsteps++] = parse_path_step(path, &cursor);
		if (*cursor == '\0')
			return nsteps;
		cursor++;
	}
}

static void
read_column_options(KappaColumn *column, List *options)
{
	ListCell *lc;

	foreach(lc, options)
	{
		DefElem *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, "path") == 0)
			column->npath = kappa_options_parse_path(defGetString(def),
													 &column->path);
		else if (strcmp(def->defname, "metadata") == 0)
			column->source = kappa_options_parse_metadata(defGetString(def));
		else if (strcmp(def->defname, "key") == 0)
			column->key = kappa_options_parse_boolean("key", defGetString(def));
	}
}

/* Check a column against its table, and complete it. */
static void
finish_column(const KappaTable *table, KappaColumn *column)
{
	if (column->npath > 0 && column->source == KAPPA_SOURCE_KEY &&
		table->key_format != KAPPA_KEY_JSON)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("column \"%s\" of foreign table \"%s\" has a path in a key that is not JSON",
						column->name, table->name),
				 errhint("Set the option key_format 'json' on the foreign table.")));

	if (column->source == KAPPA_SOURCE_FIELD &&
		table->format == KAPPA_FORMAT_RAW)
	{
		if (column->npath > 0)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("column \"%s\" of foreign table \"%s\" has a path, but format \"raw\" has no fields",
							column->name, table->name)));
		column->source = KAPPA_SOURCE_VALUE;
	}

	/* A name is one step, whatever characters it has. */
	if (column->source == KAPPA_SOURCE_FIELD && column->npath == 0)
	{
		column->npath = 1;
		column->path = palloc(sizeof(char *));
		column->path[0] = column->name;
	}

	if (column->key)
	{
		TypeCacheEntry *type = lookup_type_cache(column->type,
												 TYPECACHE_LT_OPR | TYPECACHE_EQ_OPR);

		if (!OidIsValid(type->lt_opr) || !OidIsValid(type->eq_opr))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_FUNCTION),
					 errmsg("column \"%s\" of foreign table \"%s\" cannot be a key",
							column->name, table->name),
					 errdetail("Values of type %s have no order.",
							   format_type_be(column->type))));
	}
}

/* In format raw one column takes the value. */
static void
check_raw_columns(const KappaTable *table)
{
	const KappaColumn *first = NULL;

	for (int i = 0; i < table->ncolumns; i++)
	{
		const KappaColumn *column = &table->columns[i];

		if (column->source != KAPPA_SOURCE_VALUE)
			continue;
		if (first != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
					 errmsg("foreign table \"%s\" of format \"raw\" has more than one column for the value",
							table->name),
					 errdetail("Columns \"%s\" and \"%s\" would both take the value.",
							   first->name, column->name),
					 errhint("Use the option \"metadata\" for columns that are not the value.")));
		first = column;
	}
}

static void
read_columns(KappaTable *table, TupleDesc desc)
{
	table->ncolumns = desc->natts;
	table->columns = palloc0(desc->natts * sizeof(KappaColumn));

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);
		KappaColumn *column = &table->columns[i];

		column->attnum = attr->attnum;
		column->source = KAPPA_SOURCE_DROPPED;
		if (attr->attisdropped)
			continue;

		column->name = pstrdup(NameStr(attr->attname));
		column->type = attr->atttypid;
		column->typmod = attr->atttypmod;
		column->source = KAPPA_SOURCE_FIELD;
		read_column_options(column,
							GetForeignColumnOptions(table->relid, attr->attnum));
		finish_column(table, column);
		table->changelog |= column->key;
	}

	if (table->format == KAPPA_FORMAT_RAW)
		check_raw_columns(table);
}

KappaTable *
kappa_options_get_table(Oid relid)
{
	Relation rel = table_open(relid, AccessShareLock);
	ForeignTable *foreign = GetForeignTable(relid);
	KappaTable *table = palloc0(sizeof(KappaTable));
	ListCell *lc;

	table->relid = relid;
	table->serverid = foreign->serverid;
	table->name = pstrdup(RelationGetRelationName(rel));
	table->format = KAPPA_FORMAT_JSON;
	table->key_format = KAPPA_KEY_RAW;
	table->key_order = KAPPA_KEY_ORDER_OFFSET;

	foreach(lc, foreign->options)
	{
		DefElem *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, "topic") == 0)
			table->topic = pstrdup(defGetString(def));
		else if (strcmp(def->defname, "format") == 0)
			table->format = kappa_options_parse_format(defGetString(def));
		else if (strcmp(def->defname, "key_format") == 0)
			table->key_format = kappa_options_parse_key_format(defGetString(def));
		else if (strcmp(def->defname, "key_order") == 0)
			table->key_order = kappa_options_parse_key_order(defGetString(def));
	}

	read_columns(table, RelationGetDescr(rel));
	table_close(rel, AccessShareLock);
	return table;
}

bool
kappa_options_reads(const KappaTable *table, const Bitmapset *columns, KappaColumnSource source)
{
	int attnum = -1;

	while ((attnum = bms_next_member(columns, attnum)) >= 0)
		if (attnum > 0 && table->columns[attnum - 1].source == source)
			return true;
	return false;
}

const char *
kappa_options_get_topic(Oid relid, Oid *serverid)
{
	ForeignTable *foreign;
	ListCell *lc;

	if (!SearchSysCacheExists1(FOREIGNTABLEREL, ObjectIdGetDatum(relid)))
		return NULL;
	foreign = GetForeignTable(relid);
	*serverid = foreign->serverid;
	foreach(lc, foreign->options)
	{
		DefElem *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, "topic") == 0)
			return defGetString(def);
	}
	return NULL;
}

static void
add_properties(KafkaConfig *config, List *options)
{
	ListCell *lc;

	config->properties =
		config->properties == NULL ? palloc(Max(list_length(options), 1) * sizeof(KafkaProperty))
								   : repalloc(config->properties,
											  Max(config->nproperties + list_length(options), 1) *
												  sizeof(KafkaProperty));

	foreach(lc, options)
	{
		DefElem *def = lfirst_node(DefElem, lc);
		const KappaProperty *known = kappa_properties_find(def->defname);
		KafkaProperty *property = &config->properties[config->nproperties++];

		property->name = kappa_properties_librdkafka_name(def->defname);
		property->value = pstrdup(defGetString(def));
		property->secret = known == NULL || known->kind == KAPPA_PROPERTY_SECRET;
	}
}

/* Does logging in take a user's secret? */
static bool
needs_secret(List *server_options)
{
	bool sasl = false;
	bool kerberos = false;
	ListCell *lc;

	foreach(lc, server_options)
	{
		DefElem *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, "security_protocol") == 0)
			sasl = pg_strncasecmp(defGetString(def), "sasl", 4) == 0;
		else if (strncmp(def->defname, "sasl_mechanism", strlen("sasl_mechanism")) == 0)
			kerberos = strcmp(defGetString(def), "GSSAPI") == 0;
	}
	return sasl && !kerberos;
}

static bool
has_user_mapping(Oid serverid, Oid userid)
{
	return SearchSysCacheExists2(USERMAPPINGUSERSERVER,
								 ObjectIdGetDatum(userid),
								 ObjectIdGetDatum(serverid)) ||
		   SearchSysCacheExists2(USERMAPPINGUSERSERVER,
								 ObjectIdGetDatum(InvalidOid),
								 ObjectIdGetDatum(serverid));
}

KafkaConfig *
kappa_options_get_connection(Oid serverid, Oid userid)
{
	ForeignServer *server = GetForeignServer(serverid);
	KafkaConfig *config = palloc0(sizeof(KafkaConfig));

	add_properties(config, server->options);

	/* Without a mapping, where one is needed, core says it best. */
	if (needs_secret(server->options) || has_user_mapping(serverid, userid))
		add_properties(config, GetUserMapping(userid, serverid)->options);
	return config;
}

/* ---- who may connect ---- */

Oid
kappa_options_get_owner(Oid relid)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid owner = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
		ReleaseSysCache(tuple);
	}
	return owner;
}

bool
kappa_options_may_use_server(const KappaTable *table)
{
	return object_aclcheck(ForeignServerRelationId, table->serverid,
						   kappa_options_get_owner(table->relid), ACL_USAGE) == ACLCHECK_OK;
}

void
kappa_options_check_server(const KappaTable *table)
{
	if (kappa_options_may_use_server(table))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for foreign server \"%s\"",
					GetForeignServer(table->serverid)->servername),
			 errdetail("The owner of foreign table \"%s\" has no USAGE on it.", table->name)));
}

void
kappa_options_check_reader(const KappaTable *table, Oid userid)
{
	if (pg_class_aclcheck(table->relid, userid, ACL_SELECT) != ACLCHECK_OK &&
		pg_attribute_aclcheck_all(table->relid, userid, ACL_SELECT, ACLMASK_ANY) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FOREIGN_TABLE, table->name);
	kappa_options_check_server(table);
}

/* ---- fingerprints ---- */

static const char *
choice_name(int value, const OptionValue *choices, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (choices[i].value == value)
			return choices[i].name;
	}
	return "field";
}

/*
 * Type names, not OIDs, and no attribute numbers: a fingerprint outlives dump
 * and restore, which change both.
 */
static void
append_column_fingerprint(StringInfo buf, const KappaColumn *column)
{
	appendStringInfo(buf, "; %s%s",
					 choice_name(column->source, metadata_sources,
								 lengthof(metadata_sources)),
					 column->key ? " key" : "");
	for (int i = 0; i < column->npath; i++)
		appendStringInfo(buf, " %s", quote_literal_cstr(column->path[i]));
	appendStringInfo(buf, " as %s",
					 format_type_extended(column->type, column->typmod,
										  FORMAT_TYPE_TYPEMOD_GIVEN |
											  FORMAT_TYPE_FORCE_QUALIFY));
}

char *
kappa_options_fingerprint(const KappaTable *table, Bitmapset *columns)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "topic %s, format %s, key format %s",
					 quote_literal_cstr(table->topic),
					 choice_name(table->format, formats, lengthof(formats)),
					 choice_name(table->key_format, key_formats,
								 lengthof(key_formats)));
	if (table->changelog)
		appendStringInfo(&buf, ", key order %s",
						 choice_name(table->key_order, key_orders,
									 lengthof(key_orders)));

	for (int i = 0; i < table->ncolumns; i++)
	{
		const KappaColumn *column = &table->columns[i];

		if (column->key || bms_is_member(column->attnum, columns))
			append_column_fingerprint(&buf, column);
	}
	return buf.data;
}

bool
kappa_options_is_topic(Oid relid)
{
	ForeignServer *server;
	ForeignDataWrapper *wrapper;
	FmgrInfo handler;

	if (get_rel_relkind(relid) != RELKIND_FOREIGN_TABLE)
		return false;

	server = GetForeignServer(GetForeignTable(relid)->serverid);
	wrapper = GetForeignDataWrapper(server->fdwid);
	if (!OidIsValid(wrapper->fdwhandler))
		return false;

	/* The handler tells, whatever name the wrapper was given. */
	fmgr_info(wrapper->fdwhandler, &handler);
	return handler.fn_addr == kappa_sql_fdw_handler;
}

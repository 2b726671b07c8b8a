/*-------------------------------------------------------------------------
 *
 * fdw_validator.c
 *	  Check options when they are set
 *
 * PostgreSQL calls the validator with the whole list that an object would
 * have after the command, so every check here also meets what others set
 * before: whoever alters a server that uses a file of the database server
 * needs the privilege to do so, or could send that identity elsewhere.
 *
 * No message here contains the value of a secret.
 *
 * IDENTIFICATION
 *	  src/fdw_validator.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "fdw_options.h"
#include "fdw_properties.h"
#include "fmgr.h"
#include "kafka_config.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(kappa_sql_fdw_validator);

/* Kafka's own limit. */
#define MAX_TOPIC_LENGTH 249

static const char *const sasl_mechanisms[] = {
	"PLAIN",
	"SCRAM-SHA-256",
	"SCRAM-SHA-512",
	"OAUTHBEARER",
	"GSSAPI",
};

/* The place that a catalog stands for; 0 for the wrapper itself. */
static int
place_of_catalog(Oid catalog)
{
	switch (catalog)
	{
		case ForeignServerRelationId:
			return KAPPA_ON_SERVER;
		case UserMappingRelationId:
			return KAPPA_ON_MAPPING;
		case ForeignTableRelationId:
			return KAPPA_ON_TABLE;
		case AttributeRelationId:
			return KAPPA_ON_COLUMN;
		default:
			return 0;
	}
}

static const char *
find_value(List *options, const char *name)
{
	ListCell *lc;

	foreach(lc, options)
	{
		DefElem *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, name) == 0)
			return defGetString(def);
	}
	return NULL;
}

/* Hint for a name that may stand elsewhere, or is misspelt. */
static int
hint_invalid_name(const KappaProperty *property, const char *name, int place)
{
	const char *closest;

	if (property != NULL && (property->places & KAPPA_ON_SERVER))
		return errhint("The option \"%s\" may be set on a server.", name);
	if (property != NULL && (property->places & KAPPA_ON_MAPPING))
		return errhint("The option \"%s\" may be set on a user mapping.", name);
	if (property != NULL && (property->places & KAPPA_ON_TABLE))
		return errhint("The option \"%s\" may be set on a foreign table.", name);
	if (property != NULL && (property->places & KAPPA_ON_COLUMN))
		return errhint("The option \"%s\" may be set on a column of a foreign table.", name);

	closest = kappa_properties_closest(name, place);
	if (closest != NULL)
		return errhint("Perhaps you meant the option \"%s\".", closest);

	switch (place)
	{
		case KAPPA_ON_SERVER:
		case KAPPA_ON_MAPPING:
			return errhint("Options are librdkafka's properties, with \"_\" for \".\".");
		case KAPPA_ON_TABLE:
			return errhint("Valid options in this context are: format, key_format, key_order, topic");
		case KAPPA_ON_COLUMN:
			return errhint("Valid options in this context are: key, metadata, path");
		default:
			return errhint("There are no valid options in this context.");
	}
}

static void
report_refused_name(const KappaProperty *property)
{
	switch (property->kind)
	{
		case KAPPA_PROPERTY_CODE:
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("option \"%s\" is not allowed", property->option),
					 errdetail("It would load code into the database server, or run commands there.")));
			break;
		case KAPPA_PROPERTY_MANAGED:
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("option \"%s\" cannot be set", property->option),
					 errdetail("Its value is chosen by kappa."),
					 property->hint ? errhint("%s", property->hint) : 0));
			break;
		case KAPPA_PROPERTY_PRODUCER:
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("option \"%s\" cannot be set", property->option),
					 errdetail("It is for producers, and kappa only reads from Kafka.")));
			break;
		default:
			break;
	}
}

/* The property for a name; throws unless it may be set in this place. */
static const KappaProperty *
check_name(const char *name, int place)
{
	const KappaProperty *property = kappa_properties_find(name);

	if (property != NULL && (property->places & place))
		return property;

	if (property != NULL && place != 0)
		report_refused_name(property);

	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("invalid option \"%s\"", name),
			 hint_invalid_name(property, name, place)));
}

static void
check_may_use_identity(const char *what)
{
	if (has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
		return;

	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to set %s", what),
			 errdetail("It uses a file, or the identity, of the database server."),
			 errhint("Only roles with privileges of the \"%s\" role may set it.",
					 "pg_read_server_files")));
}

/*
 * librdkafka puts the Kerberos names into a shell command, with which it
 * renews the ticket; that must stay a list of plain words.
 */
static void
check_kerberos_word(const char *name, const char *value)
{
	static const char plain[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._@/-";

	if (value[0] == '-' || value[strspn(value, plain)] != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\"", name),
				 errdetail("Only letters, digits and the characters \"._@/-\" are allowed.")));
}

static void
check_sasl_mechanism(const char *name, const char *value)
{
	bool known = false;

	for (int i = 0; i < lengthof(sasl_mechanisms); i++)
		known |= strcmp(value, sasl_mechanisms[i]) == 0;

	if (!known)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\": \"%s\"", name, value),
				 errhint("Valid values are PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER and GSSAPI.")));

	if (strcmp(value, "GSSAPI") == 0)
		check_may_use_identity("SASL mechanism GSSAPI");
}

/* Let librdkafka judge the value. */
static void
check_property_value(const KappaProperty *property, const char *value)
{
	char reason[512];
	bool secret = property->kind == KAPPA_PROPERTY_SECRET;

	switch (kappa_kafka_check_property(kappa_properties_librdkafka_name(property->option),
									   value, reason, sizeof(reason)))
	{
		case KAFKA_PROPERTY_OK:
			break;
		case KAFKA_PROPERTY_UNKNOWN:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("option \"%s\" is not supported by the installed librdkafka",
							property->option)));
			break;
		case KAFKA_PROPERTY_INVALID:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value for option \"%s\"", property->option),
					 secret ? 0 : errdetail("librdkafka reported: %s", reason)));
			break;
	}
}

/* An option of a server or of a user mapping. */
static void
check_connection_option(const KappaProperty *property, const char *value)
{
	const char *name = property->option;

	if (value[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" must not be empty", name)));

	if (property->kind == KAPPA_PROPERTY_IDENTITY)
		check_may_use_identity(psprintf("option \"%s\"", name));

	if (strcmp(name, "sasl_mechanism") == 0 ||
		strcmp(name, "sasl_mechanisms") == 0)
		check_sasl_mechanism(name, value);
	else if (strcmp(name, "sasl_kerberos_keytab") == 0 ||
			 strcmp(name, "sasl_kerberos_principal") == 0 ||
			 strcmp(name, "sasl_kerberos_service_name") == 0)
		check_kerberos_word(name, value);

	check_property_value(property, value);
}

/* What the options of a server must be together. */
static void
check_server(List *options)
{
	const char *protocol = find_value(options, "security_protocol");
	const char *mechanism = find_value(options, "sasl_mechanism");
	const char *mechanisms = find_value(options, "sasl_mechanisms");

	if (find_value(options, "bootstrap_servers") == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_DYNAMIC_PARAMETER_VALUE_NEEDED),
				 errmsg("option \"%s\" is required for servers of kappa",
						"bootstrap_servers")));

	if (mechanism != NULL && mechanisms != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("conflicting or redundant options"),
				 errdetail("\"%s\" and \"%s\" are the same option.",
						   "sasl_mechanism", "sasl_mechanisms")));

	/*
	 * librdkafka's default is GSSAPI, which uses the server's own identity:
	 * that has to be asked for.
	 */
	if (protocol != NULL && pg_strncasecmp(protocol, "sasl", 4) == 0 &&
		mechanism == NULL && mechanisms == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_DYNAMIC_PARAMETER_VALUE_NEEDED),
				 errmsg("option \"%s\" is required with security protocol \"%s\"",
						"sasl_mechanism", protocol),
				 errhint("Valid values are PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER and GSSAPI.")));
}

static void
check_topic(const char *topic)
{
	static const char allowed[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";

	if (topic[0] != '\0' && strlen(topic) <= MAX_TOPIC_LENGTH &&
		topic[strspn(topic, allowed)] == '\0' &&
		strcmp(topic, ".") != 0 && strcmp(topic, "..") != 0)
		return;

	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid topic name \"%s\"", topic),
			 errdetail("Kafka allows up to %d letters, digits and the characters \"._-\".",
					   MAX_TOPIC_LENGTH)));
}

static void
check_table(List *options)
{
	const char *topic = find_value(options, "topic");
	const char *format = find_value(options, "format");
	const char *key_format = find_value(options, "key_format");
	const char *key_order = find_value(options, "key_order");

	if (topic == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_DYNAMIC_PARAMETER_VALUE_NEEDED),
				 errmsg("option \"%s\" is required for foreign tables of kappa",
						"topic")));
	check_topic(topic);

	if (format != NULL)
		(void) kappa_options_parse_format(format);
	if (key_format != NULL)
		(void) kappa_options_parse_key_format(key_format);
	if (key_order != NULL)
		(void) kappa_options_parse_key_order(key_order);
}

static void
check_column(List *options)
{
	const char *path = find_value(options, "path");
	const char *metadata = find_value(options, "metadata");
	const char *key = find_value(options, "key");
	KappaColumnSource source = KAPPA_SOURCE_FIELD;

	if (path != NULL)
	{
		const char **steps;

		(void) kappa_options_parse_path(path, &steps);
	}
	if (metadata != NULL)
		source = kappa_options_parse_metadata(metadata);

	if (path != NULL && source != KAPPA_SOURCE_FIELD &&
		source != KAPPA_SOURCE_KEY)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"%s\" cannot be used with metadata \"%s\"",
						"path", metadata),
				 source == KAPPA_SOURCE_VALUE ? errhint("Without the option \"metadata\" a path is a path in the value.") : 0));

	if (key != NULL && kappa_options_parse_boolean("key", key) &&
		source != KAPPA_SOURCE_KEY)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("a key column must be read from the key of the message"),
				 errdetail("A message that deletes a row has a key only."),
				 errhint("Add the option metadata 'key'.")));
}

Datum
kappa_sql_fdw_validator(PG_FUNCTION_ARGS)
{
	List *options = untransformRelOptions(PG_GETARG_DATUM(0));
	int place = place_of_catalog(PG_GETARG_OID(1));
	ListCell *lc;

	foreach(lc, options)
	{
		DefElem *def = lfirst_node(DefElem, lc);
		const KappaProperty *property = check_name(def->defname, place);

		if (property->kind != KAPPA_PROPERTY_OWN)
			check_connection_option(property, defGetString(def));
	}

	if (place == KAPPA_ON_SERVER)
		check_server(options);
	else if (place == KAPPA_ON_TABLE)
		check_table(options);
	else if (place == KAPPA_ON_COLUMN)
		check_column(options);

	PG_RETURN_VOID();
}

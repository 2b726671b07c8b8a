/*-------------------------------------------------------------------------
 *
 * fdw_options.h
 *	  What a foreign table says about its topic
 *
 * IDENTIFICATION
 *	  src/fdw_options.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_FDW_OPTIONS_H
#define KAPPA_FDW_OPTIONS_H

#include "access/attnum.h"
#include "kafka_client.h"
#include "nodes/bitmapset.h"

typedef enum KappaFormat
{
	KAPPA_FORMAT_JSON,
	KAPPA_FORMAT_RAW,
} KappaFormat;

typedef enum KappaKeyFormat
{
	KAPPA_KEY_RAW,
	KAPPA_KEY_JSON,
} KappaKeyFormat;

typedef enum KappaKeyOrder
{
	KAPPA_KEY_ORDER_OFFSET,
	KAPPA_KEY_ORDER_TIMESTAMP,
} KappaKeyOrder;

/* Where a column's value comes from. */
typedef enum KappaColumnSource
{
	KAPPA_SOURCE_DROPPED, /* the attribute is dropped */
	KAPPA_SOURCE_FIELD,   /* a field of the message's value, at path */
	KAPPA_SOURCE_KEY,     /* metadata 'key'; with a path if key_format is json */
	KAPPA_SOURCE_VALUE,   /* metadata 'value', or the one column of format raw */
	KAPPA_SOURCE_PARTITION,
	KAPPA_SOURCE_OFFSET,
	KAPPA_SOURCE_TIMESTAMP,
	KAPPA_SOURCE_TIMESTAMP_TYPE,
	KAPPA_SOURCE_HEADERS,
	KAPPA_SOURCE_TOPIC,
} KappaColumnSource;

typedef struct KappaColumn
{
	AttrNumber attnum;
	const char *name;
	Oid type;
	int32 typmod;
	KappaColumnSource source;
	int npath;         /* 0: the whole document */
	const char **path; /* steps; an all-digits step may also index an array */
	bool key;          /* option key 'true' */
} KappaColumn;

typedef struct KappaTable
{
	Oid relid;
	Oid serverid;
	const char *name; /* of the foreign table, for messages */
	const char *topic;
	KappaFormat format;
	KappaKeyFormat key_format;
	KappaKeyOrder key_order;
	bool changelog; /* at least one key column */
	int ncolumns;
	KappaColumn *columns; /* columns[attnum - 1] */
} KappaTable;

/*
 * Read and check a foreign table's options.  The result is palloc'd in
 * CurrentMemoryContext.  Throws for what only shows when the table is used
 * (raw with two value columns, a key column that is not read from the key, ...).
 */
extern KappaTable *kappa_options_get_table(Oid relid);

/* Whether some of the columns (attribute numbers) are read from a source. */
extern bool kappa_options_reads(const KappaTable *table, const Bitmapset *columns,
								KappaColumnSource source);

/* Topic and server of a foreign table, without a lock on it; NULL if it is gone. */
extern const char *kappa_options_get_topic(Oid relid, Oid *serverid);

/*
 * Connection properties of a server for a user: the server's options and the
 * user mapping's, under librdkafka's names.  A server without a mapping for
 * the user is fine when it needs no secret.  palloc'd.
 */
extern KafkaConfig *kappa_options_get_connection(Oid serverid, Oid userid);

/* The owner of a relation; InvalidOid if it is gone. */
extern Oid kappa_options_get_owner(Oid relid);

/*
 * Throw 42501 unless kappa may connect for a foreign table.  Its owner needs
 * USAGE on the server: PostgreSQL asks for that only when the table is made,
 * but whoever loses it shall not go on making this server connect there.
 */
extern void kappa_options_check_server(const KappaTable *table);
extern bool kappa_options_may_use_server(const KappaTable *table);

/* Likewise, for somebody who needs SELECT on the table, or a column of it. */
extern void kappa_options_check_reader(const KappaTable *table, Oid userid);

/*
 * What the meaning of a view depends on, as text that can be compared: topic,
 * format, key options, and for each of the columns (attribute numbers) path,
 * source, key, type.  Connection options are not part of it, nor are the names
 * of columns (but the path that a name implies is).  Also every key column of a
 * changelog, asked for or not.
 */
extern char *kappa_options_fingerprint(const KappaTable *table, Bitmapset *columns);

/* True if the relation is a foreign table of a kappa server. */
extern bool kappa_options_is_topic(Oid relid);

/* The values of single options; they throw, naming what is valid. */
extern KappaFormat kappa_options_parse_format(const char *value);
extern KappaKeyFormat kappa_options_parse_key_format(const char *value);
extern KappaKeyOrder kappa_options_parse_key_order(const char *value);
extern KappaColumnSource kappa_options_parse_metadata(const char *value);
extern bool kappa_options_parse_boolean(const char *option, const char *value);

/*
 * Split a path at its dots.  A step in double quotes may contain dots, and two
 * double quotes for one: a."b.c".d.  Returns the number of steps; both the
 * array and the strings are palloc'd.  Throws 22023 for an empty step.
 */
extern int kappa_options_parse_path(const char *path, const char ***steps);

#endif /* KAPPA_FDW_OPTIONS_H */

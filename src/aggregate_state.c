/*-------------------------------------------------------------------------
 *
 * aggregate_state.c
 *	  The type kappa.state: the serialized state of an aggregate
 *
 * A deserialize function trusts its input.  Only a superuser may therefore
 * make a state from text or from the client's bytes, which is what restoring
 * a dump does; everybody else gets states from kappa.partial() alone.
 *
 * The header is in network byte order, as what serialize functions write is,
 * and names nothing by OID: a state can be dumped and restored.
 *
 * IDENTIFICATION
 *	  src/aggregate_state.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "port/pg_crc32c.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

#include "aggregate_state.h"
#include "compat.h"
#include "kappa.h"

/* What a state begins with: the header's fields, and two bytes of zero. */
#define HEADER_SIZE 12

PG_FUNCTION_INFO_V1(kappa_sql_state_in);
PG_FUNCTION_INFO_V1(kappa_sql_state_out);
PG_FUNCTION_INFO_V1(kappa_sql_state_receive);
PG_FUNCTION_INFO_V1(kappa_sql_state_send);

Oid
kappa_state_type(void)
{
	Oid schema = get_namespace_oid(KAPPA_SCHEMA, false);
	Oid type = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
							   CStringGetDatum("state"), ObjectIdGetDatum(schema));

	if (!OidIsValid(type))
		elog(ERROR, "type kappa.state not found");
	return type;
}

/* A checksum, because core's hash functions depend on the byte order. */
uint32
kappa_state_hash(const char *name)
{
	pg_crc32c crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, name, strlen(name));
	FIN_CRC32C(crc);
	return crc != 0 ? crc : 1;
}

Datum
kappa_state_pack(const KappaStateHeader *header, const bytea *bytes)
{
	Size size = VARSIZE_ANY_EXHDR(bytes);
	bytea *state = palloc(VARHDRSZ + HEADER_SIZE + size);
	char *data = VARDATA(state);
	uint32 function = pg_hton32(header->function);
	uint32 types = pg_hton32(header->types);
	uint32 version = pg_hton32((uint32) header->version << 16);

	SET_VARSIZE(state, VARHDRSZ + HEADER_SIZE + size);
	memcpy(data, &function, 4);
	memcpy(data + 4, &types, 4);
	memcpy(data + 8, &version, 4);
	memcpy(data + HEADER_SIZE, VARDATA_ANY(bytes), size);
	return PointerGetDatum(state);
}

bytea *
kappa_state_unpack(Datum datum, KappaStateHeader *header)
{
	bytea *state = DatumGetByteaPP(datum);
	const char *data = VARDATA_ANY(state);
	Size size = VARSIZE_ANY_EXHDR(state) - HEADER_SIZE;
	bytea *bytes = palloc(VARHDRSZ + size);
	uint32 function;
	uint32 types;
	uint32 version;

	memcpy(&function, data, 4);
	memcpy(&types, data + 4, 4);
	memcpy(&version, data + 8, 4);
	header->function = pg_ntoh32(function);
	header->types = pg_ntoh32(types);
	header->version = pg_ntoh32(version) >> 16;

	SET_VARSIZE(bytes, VARHDRSZ + size);
	memcpy(VARDATA(bytes), data + HEADER_SIZE, size);
	return bytes;
}

/* Let nobody else make a state, and no state be shorter than its header. */
static Datum
check_state(Datum state)
{
	if (VARSIZE_ANY_EXHDR(DatumGetPointer(state)) < HEADER_SIZE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("invalid value for type %s", "kappa.state")));
	return state;
}

static void
check_may_forge(void)
{
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot accept a value of type %s", "kappa.state"),
				 errdetail("Only a superuser may make one from its text, to restore a dump.")));
}

Datum
kappa_sql_state_in(PG_FUNCTION_ARGS)
{
	check_may_forge();
	return check_state(DirectFunctionCall1(byteain, PG_GETARG_DATUM(0)));
}

/* Like byteaout(), but always in hexadecimal. */
Datum
kappa_sql_state_out(PG_FUNCTION_ARGS)
{
	bytea *state = PG_GETARG_BYTEA_PP(0);
	Size size = VARSIZE_ANY_EXHDR(state);
	char *text = palloc(2 + 2 * size + 1);

	text[0] = '\\';
	text[1] = 'x';
	text[2 + hex_encode(VARDATA_ANY(state), size, text + 2)] = '\0';
	PG_RETURN_CSTRING(text);
}

Datum
kappa_sql_state_receive(PG_FUNCTION_ARGS)
{
	check_may_forge();
	return check_state(DirectFunctionCall1(bytearecv, PG_GETARG_DATUM(0)));
}

Datum
kappa_sql_state_send(PG_FUNCTION_ARGS)
{
	return DirectFunctionCall1(byteasend, PG_GETARG_DATUM(0));
}

/*-------------------------------------------------------------------------
 *
 * fdw.h
 *	  Planning of scans of foreign tables
 *
 * IDENTIFICATION
 *	  src/fdw.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_FDW_H
#define KAPPA_FDW_H

#include "fmgr.h"

extern Datum kappa_sql_fdw_handler(PG_FUNCTION_ARGS);

#endif /* KAPPA_FDW_H */

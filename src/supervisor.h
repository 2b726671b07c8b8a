/*-------------------------------------------------------------------------
 *
 * supervisor.h
 *	  The process that decides, in one database, which worker serves which view
 *
 * IDENTIFICATION
 *	  src/supervisor.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_SUPERVISOR_H
#define KAPPA_SUPERVISOR_H

/* Entry point of the process. */
extern PGDLLEXPORT void kappa_supervisor_main(Datum arg);

#endif /* KAPPA_SUPERVISOR_H */

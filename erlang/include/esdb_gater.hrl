%%% Records shared with applications that use esdb-gater.
-ifndef(ESDB_GATER_HRL).
-define(ESDB_GATER_HRL, true).

%% How a failed operation is retried. Make one with esdb_gater_retry:new_config/1,3,
%% which checks the values; the defaults here are those of an unconfigured system.
-record(retry_config, {
    %% Milliseconds before the first retry; doubles with each further one.
    base_delay_ms = 100 :: non_neg_integer(),
    %% No delay is longer than this, in milliseconds.
    max_delay_ms = 5000 :: non_neg_integer(),
    %% Retries after the first call: calls in all = max_retries + 1.
    max_retries = 4 :: non_neg_integer(),
    %% `return' gives back a failure whose request may have been carried out
    %% (a timeout, a worker or node lost during the call) instead of repeating it.
    ambiguous = retry :: retry | return,
    %% No retry is begun later than this many milliseconds after the first call.
    deadline_ms = infinity :: pos_integer() | infinity,
    %% `local' takes workers of the calling node while there are any.
    prefer = any :: any | local
}).

-endif.

%%% @private
%%% @doc What everybody in this node may want to know about the gateway, to be read without
%%% asking a process.
%%%
%%% <dl>
%%% <dt>`gateway'</dt><dd>the gateway in use; absent while there is none. Set by the link.</dd>
%%% <dt>`copy'</dt><dd>`ready' once the registry has been received. Set by the link.</dd>
%%% <dt>`channels'</dt><dd>the gateway's channels, as it has told them. Set by the link.</dd>
%%% <dt>`gateways'</dt><dd>the members of the gateway's cluster, as it has told them. Set by the
%%%   link.</dd>
%%% <dt>`push_secret'</dt><dd>`true' when the gateways are to be given this node's
%%%   secret. Set by the link.</dd>
%%% <dt>`events'</dt><dd>counters of the events that wait for handlers, see
%%%   {@link esdb_gater_events}, which sets it.</dd>
%%% <dt>`program'</dt><dd>the gateway that runs on this node and can serve. Set by
%%%   {@link esdb_gater_port}, as is the next.</dd>
%%% <dt>`refused'</dt><dd>`true' when the program cannot be used as it is configured, and is not
%%%   started again.</dd>
%%% <dt>`embedded'</dt><dd>the embedded gateway to use, of this node or another; absent while there
%%%   is none. Set by {@link esdb_gater_embedded}, as are the next.</dd>
%%% <dt>`born'</dt><dd>when this node began to take part, in µs of system time.</dd>
%%% <dt>`hosting'</dt><dd>since when it hosts the gateway that others use.</dd>
%%% <dt>`{lost_requests, Store}'</dt><dd>requests to a store without workers that were lost since
%%%   the last warning, and when that was. Set by {@link esdb_gater_request}.</dd>
%%% </dl>
%%% @end
-module(esdb_gater_shared_state).

-export([tables/0, set/2, unset/1, get/1]).

-export_type([name/0]).

-type name() :: gateway | copy | events | channels | gateways | push_secret | program
              | refused | embedded | born | hosting | {lost_requests, atom()}.

-define(TABLE, esdb_gater_shared_state).

%% @doc The tables to make, as arguments of `ets:new/2'.
-spec tables() -> [{atom(), [term()]}].
tables() ->
    [{?TABLE, [set, public, named_table, {read_concurrency, true}]}].

%% @doc States a fact.
-spec set(name(), term()) -> ok.
set(Name, Value) ->
    true = ets:insert(?TABLE, {Name, Value}),
    ok.

%% @doc Takes a fact back. Also while the application stops and its tables are gone.
-spec unset(name()) -> ok.
unset(Name) ->
    try
        true = ets:delete(?TABLE, Name),
        ok
    catch
        error:badarg -> ok
    end.

%% @doc A fact, if it is one. Nothing is while the application does not run.
-spec get(name()) -> {ok, term()} | none.
get(Name) ->
    try ets:lookup(?TABLE, Name) of
        [{_, Value}] -> {ok, Value};
        [] -> none
    catch
        error:badarg -> none
    end.

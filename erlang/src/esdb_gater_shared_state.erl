%%% @private
%%% @doc The state of the link and of the gateway that any process of this node can read without a
%%% call.
%%%
%%% <dl>
%%% <dt>`gateway'</dt><dd>The gateway in use; absent while there is none. The link sets it.</dd>
%%% <dt>`mirror'</dt><dd>`ready' once the registry was received. The link sets it.</dd>
%%% <dt>`channels'</dt><dd>The channels that the gateway has announced. The link sets them.</dd>
%%% <dt>`gateways'</dt><dd>The members of the gateway's cluster that it has announced. The link
%%%   sets them.</dd>
%%% <dt>`push_secret'</dt><dd>`true' if the gateways are to receive the secret of this node. The
%%%   link sets it.</dd>
%%% <dt>`events'</dt><dd>The counters of the events that wait for handlers; see
%%%   {@link esdb_gater_events}, which sets them.</dd>
%%% <dt>`program'</dt><dd>The gateway that runs on this node and is ready. {@link esdb_gater_port}
%%%   sets it, and the next one.</dd>
%%% <dt>`refused'</dt><dd>`true' if the program cannot be used as it is configured and is not
%%%   restarted.</dd>
%%% <dt>`embedded'</dt><dd>The embedded gateway to use, of this node or another; absent while there
%%%   is none. {@link esdb_gater_embedded} sets it, and the next two.</dd>
%%% <dt>`born'</dt><dd>The time when this node became a member, in µs of system time.</dd>
%%% <dt>`hosting'</dt><dd>The time since when it hosts the gateway that others use.</dd>
%%% <dt>`{lost_requests, Store}'</dt><dd>The number of requests to a store without workers that were
%%%   lost since the last warning, and the time of that. {@link esdb_gater_request} sets it.</dd>
%%% </dl>
%%% @end
-module(esdb_gater_shared_state).

-export([tables/0, set/2, unset/1, get/1]).

-export_type([name/0]).

-type name() :: gateway | mirror | events | channels | gateways | push_secret | program
              | refused | embedded | born | hosting | {lost_requests, atom()}.

-define(TABLE, esdb_gater_shared_state).

%% @doc Returns the tables to create, as arguments of `ets:new/2'.
-spec tables() -> [{atom(), [term()]}].
tables() ->
    [{?TABLE, [set, public, named_table, {read_concurrency, true}]}].

%% @doc Sets a value, which every process of this node can read from now on.
-spec set(name(), term()) -> ok.
set(Name, Value) ->
    true = ets:insert(?TABLE, {Name, Value}),
    ok.

%% @doc Removes a value. This also works while the application stops and its tables are gone.
-spec unset(name()) -> ok.
unset(Name) ->
    try
        true = ets:delete(?TABLE, Name),
        ok
    catch
        error:badarg -> ok
    end.

%% @doc Returns a value if it is set. No value is set while the application does not run.
-spec get(name()) -> {ok, term()} | none.
get(Name) ->
    try ets:lookup(?TABLE, Name) of
        [{_, Value}] -> {ok, Value};
        [] -> none
    catch
        error:badarg -> none
    end.

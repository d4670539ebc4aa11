%%% @private
%%% @doc Registrations that were taken back while no gateway could be told.
%%%
%%% They are gone for this node at once, and the next gateway is told before anything else. Written
%%% by the link; the table belongs to {@link esdb_gater_tables} and so outlives it.
%%% @end
-module(esdb_gater_withdrawals).

-export([tables/0, add/2, remove/2, member/2, all/0]).

-define(TABLE, esdb_gater_withdrawals).
-define(MOST, 100000).

%% @doc The tables to make, as arguments of `ets:new/2'.
-spec tables() -> [{atom(), [term()]}].
tables() ->
    [{?TABLE, [ordered_set, public, named_table]}].

%% @doc Remembers a registration that was taken back, unless there are as many as are kept.
-spec add(StoreId :: atom(), pid()) -> ok | {error, overloaded}.
add(Store, Pid) ->
    case ets:info(?TABLE, size) < ?MOST orelse member(Store, Pid) of
        true -> true = ets:insert(?TABLE, {{Store, Pid}}), ok;
        false -> {error, overloaded}
    end.

%% @doc A gateway has been told, or it is registered again.
-spec remove(StoreId :: atom(), pid()) -> ok.
remove(Store, Pid) ->
    true = ets:delete(?TABLE, {Store, Pid}),
    ok.

%% @doc Whether a gateway is still to be told.
-spec member(StoreId :: atom(), pid()) -> boolean().
member(Store, Pid) ->
    ets:member(?TABLE, {Store, Pid}).

%% @doc All of which a gateway is still to be told.
-spec all() -> [{StoreId :: atom(), pid()}].
all() ->
    [Pair || {Pair} <- ets:tab2list(?TABLE)].

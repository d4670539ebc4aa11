%%% @private
%%% @doc Owns the tables of the application and does nothing else, so that a crash of the processes
%%% that use them loses neither a registration nor a subscription.
%%%
%%% Two processes run this module. One owns the tables and the other is their heir: when the owner
%%% ends, the heir owns them, and the process that is restarted in the owner's place becomes the
%%% heir. Only if both end at once is everything lost; then the processes that use the tables are
%%% restarted as well, with empty tables.
%%% @end
-module(esdb_gater_tables).

-behaviour(gen_server).

-export([start_link/2, keepers/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-define(JOIN_TIMEOUT, 5000).

-type owned() :: [atom()].

%% @doc Returns the names of the two processes, each with that of the other.
-spec keepers() -> [{Name :: atom(), Other :: atom()}].
keepers() ->
    [{esdb_gater_tables, esdb_gater_heir}, {esdb_gater_heir, esdb_gater_tables}].

-spec start_link(Name :: atom(), Other :: atom()) -> {ok, pid()} | {error, term()}.
start_link(Name, Other) ->
    gen_server:start_link({local, Name}, ?MODULE, Other, []).

-spec init(Other :: atom()) -> {ok, owned()}.
init(Other) ->
    try gen_server:call(Other, {heir, self()}, ?JOIN_TIMEOUT) of
        ok -> {ok, []}
    catch
        exit:_ -> {ok, make()}
    end.

%% The other process does not run: it has not been started yet, or it has ended before it could hand
%% over the tables.
make() ->
    lists:foreach(fun end_user/1, [esdb_gater_cluster_sup, esdb_channel_sup]),
    Tables = esdb_gater_workers:tables() ++ esdb_gater_shared_state:tables()
        ++ esdb_gater_desired:tables() ++ esdb_gater_withdrawals:tables()
        ++ esdb_gater_relay:tables() ++ esdb_gater_local:tables() ++ esdb_gater_window:tables()
        ++ esdb_gater_pipe:tables(),
    [ets:new(Name, Options) || {Name, Options} <- Tables].

end_user(Name) ->
    case whereis(Name) of
        undefined -> ok;
        Pid -> true = exit(Pid, kill), ok
    end.

-spec handle_call(term(), gen_server:from(), owned()) ->
          {reply, ok | {error, unknown_request}, owned()}.
handle_call({heir, Heir}, _From, Owned) ->
    lists:foreach(fun(Table) -> true = ets:setopts(Table, {heir, Heir, ?MODULE}) end, Owned),
    {reply, ok, Owned};
handle_call(_Request, _From, Owned) ->
    {reply, {error, unknown_request}, Owned}.

-spec handle_cast(term(), owned()) -> {noreply, owned()}.
handle_cast(_Message, Owned) ->
    {noreply, Owned}.

-spec handle_info(term(), owned()) -> {noreply, owned()}.
handle_info({'ETS-TRANSFER', Table, _From, ?MODULE}, Owned) ->
    {noreply, [Table | Owned]};
handle_info(_Message, Owned) ->
    {noreply, Owned}.

%%% @private
%%% @doc Gateways that were in use and are not any more.
%%%
%%% A gateway keeps subscriptions over a lost connection, and connects again by itself. When
%%% another has taken over meanwhile, what is published at both would come twice, and messages of
%%% both sessions would mix; so this node takes leave of it when it shows up again.
%%%
%%% Bounded: embedded gateways have ever new names, and most of them never come back.
%%% @end
-module(esdb_gater_departed).

-export([new/0, add/2, remove/2, member/2, leave/2]).

-export_type([former/0]).

-opaque former() :: #{node() => []}.

-define(TIMEOUT, 5000).
-define(MOST, 64).

%% @doc There are none.
-spec new() -> former().
new() -> #{}.

%% @doc One more.
-spec add(node(), former()) -> former().
add(Node, Former) when map_size(Former) < ?MOST ->
    Former#{Node => []};
add(Node, Former) ->
    [Other | _] = maps:keys(Former),
    (maps:remove(Other, Former))#{Node => []}.

%% @doc It is in use again, or has been left.
-spec remove(node(), former()) -> former().
remove(Node, Former) -> maps:remove(Node, Former).

%% @doc Whether it was in use and is not.
-spec member(node(), former()) -> boolean().
member(Node, Former) -> is_map_key(Node, Former).

%% @doc Ends the session of the process `Session' with it, and then sends that process
%% `{left, Node}'. Does not wait.
-spec leave(node(), Session :: pid()) -> ok.
leave(Node, Session) ->
    _ = spawn(fun() ->
                  _ = try gen_server:call(esdb_gater_transport:address(esdb_gater_session, Node),
                                           {detach, Session}, ?TIMEOUT)
                      catch exit:_ -> ok
                      end,
                  Session ! {left, Node}
              end),
    ok.

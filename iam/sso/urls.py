"""The two addresses of single sign-on. Without a configured provider both are 404."""

from django.urls import path

from iam.sso import views

urlpatterns = [
    path("", views.login, name="sso_login"),
    path("callback/", views.callback, name="sso_callback"),
]
